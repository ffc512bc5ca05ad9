"""Writes tensors and operators into a graph of a flatbuffer in object form."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

_I = schema.TensorType.INT32


def shape_of(tensor: Any) -> list[int]:
    """The shape of a tensor in object form."""
    return [int(size) for size in tensor.shape] if tensor.shape is not None else []


@dataclass
class GraphWriter:
    """Adds tensors and operators to a graph of `model`."""

    model: Any
    graph: Any

    @classmethod
    def new(cls, model: Any, name: bytes) -> GraphWriter:
        graph: Any = schema.SubGraphT()
        graph.name, graph.tensors, graph.operators = name, [], []
        return cls(model, graph)

    def tensor(self, shape: list[int], kind: int, buffer: int = 0) -> int:
        tensor: Any = schema.TensorT()
        tensor.shape, tensor.type, tensor.buffer = np.array(shape, np.int32), kind, buffer
        tensor.name, tensor.hasRank = f"computed_{len(self.graph.tensors)}".encode(), True
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def like(self, tensor: int) -> int:
        """A tensor of the shape, type and scales of another one."""
        same = self.graph.tensors[tensor]
        index = self.tensor(shape_of(same), same.type)
        self.graph.tensors[index].quantization = same.quantization
        return index

    def constant(self, values: np.ndarray | np.generic, kind: int) -> int:
        buffer: Any = schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        return self.tensor(list(values.shape), kind, len(self.model.buffers) - 1)

    def integers(self, values: Any) -> int:
        return self.constant(np.array(values, np.int32), _I)

    def add(self, name: str, read: list[int], written: list[int], options: Any) -> None:
        operator: Any = schema.OperatorT()
        operator.opcodeIndex = self._code(getattr(schema.BuiltinOperator, name))
        operator.inputs, operator.outputs = read, written
        if options is not None:
            kind = type(options).__name__.removesuffix("T")
            operator.builtinOptions, operator.builtinOptionsType = options, getattr(schema.BuiltinOptions, kind)
        self.graph.operators.append(operator)

    def splice(self, other: Any, read: Iterable[int], written: Iterable[int]) -> None:
        """Add the operators of graph `other` of this model, with `read` and `written` for its inputs and outputs."""
        places = {-1: -1}  # An operand that is left out.
        for inner, outer in ((other.inputs, read), (other.outputs, written)):
            for inside, outside in zip(map(int, inner), map(int, outer), strict=True):
                if inside in places:
                    raise AssertionError("a graph hands an operand through")
                places[inside] = outside

        def tensor(index: int) -> int:
            if index not in places:
                places[index] = len(self.graph.tensors)
                taken = copy(other.tensors[index])
                taken.name = f"spliced_{places[index]}".encode()
                self.graph.tensors.append(taken)
            return places[index]

        for operator in other.operators:
            taken = copy(operator)
            taken.inputs = np.array([tensor(int(index)) for index in operator.inputs], np.int32)
            taken.outputs = np.array([tensor(int(index)) for index in operator.outputs], np.int32)
            self.graph.operators.append(taken)

    def scalar_of(self, tensor: int, begin: list[int], rank: int) -> int:
        """The element of `tensor` at `begin`, as a scalar."""
        one, scalar = self.tensor([1] * rank, _I), self.tensor([], _I)
        self.add("SLICE", [tensor, self.integers(begin), self.integers([1] * rank)], [one], schema.SliceOptionsT())
        reshape: Any = schema.ReshapeOptionsT()
        reshape.newShape = []
        self.add("RESHAPE", [one, self.integers(np.zeros(0))], [scalar], reshape)
        return scalar

    def begin(self, axis: int, start: int) -> int:
        """int32 `[4]`: `start` on `axis`, else 0."""
        places, begin = [self.integers(0)] * 4, self.tensor([4], _I)
        places[axis] = start
        pack: Any = schema.PackOptionsT()
        pack.valuesCount, pack.axis = 4, 0
        self.add("PACK", places, [begin], pack)
        return begin

    def slice(self, tensor: int, axis: int, start: int, out: int) -> None:
        sizes = self.integers(shape_of(self.graph.tensors[out]))
        self.add("SLICE", [tensor, self.begin(axis, start), sizes], [out], schema.SliceOptionsT())

    def last_start(self, cache: int, axis: int, rows: int) -> int:
        """The last slot at which `rows` rows fit into the cache, whatever its length when the model is loaded."""
        shape, last = self.tensor([4], _I), self.tensor([], _I)
        as_integers: Any = schema.ShapeOptionsT()
        as_integers.outType = _I
        self.add("SHAPE", [cache], [shape], as_integers)
        self.add("SUB", [self.scalar_of(shape, [axis], 1), self.integers(rows)], [last], schema.SubOptionsT())
        return last

    def _code(self, builtin: int) -> int:
        for index, code in enumerate(self.model.operatorCodes):
            if code.builtinCode == builtin:
                return index
        code: Any = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), 1
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1
