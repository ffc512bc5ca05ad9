"""Attention products of full layers, block by block over the slots in use instead of over the whole cache.

The decomposition of an `odml.runtime_bmm` becomes the body of a WHILE, run on one block of slots at a time up to the
step's end. The CPU hands a loop its cache without copying it; a GPU, which has kernels for the composites, never sees
it. Blocks begin at fixed slots, so each row's sum has the same terms in the same order, whatever the pass. Written
into the flatbuffer, as litert-torch cannot export a loop.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers

from ...runtime.bundle.flatbuffer import operator_code, operator_name

# Where a model has no sliding window to tell.
SLOTS_PER_BLOCK = 512
_PRODUCT = "odml.runtime_bmm"
# A loop over scores carries all of them, which costs more than it saves in a prefill of many rows.
_MOST_SCORES = 1 << 20
_END = 1  # Place of the end of the slots in use in param_tensor.
_F, _I, _B = schema.TensorType.FLOAT32, schema.TensorType.INT32, schema.TensorType.BOOL


def loop_over_blocks(model: Any, block: int) -> int:
    """Turn every whole product in `model` (object form, changed in place) into a loop over blocks of `block` slots.

    Windowed products and caches of no more than one block stay as they are.

    Returns:
        How many decompositions were changed.
    """
    wanted: dict[int, bool] = {}
    for graph in model.subgraphs:
        for operator in graph.operators:
            if operator_name(model, operator) == _PRODUCT:
                options = operator.builtinOptions2
                attributes = flexbuffers.Loads(bytes(options.compositeAttributes))
                wanted[options.decompositionSubgraphIndex] = bool(attributes["is_src"])
    return sum(_rewrite(model, index, block, is_value=is_value) for index, is_value in sorted(wanted.items()))


def _rewrite(model: Any, index: int, block: int, *, is_value: bool) -> bool:
    graph = model.subgraphs[index]
    lhs, cache, parameters = (int(tensor) for tensor in graph.inputs)
    out = int(graph.outputs[0])
    axis = 3 if is_value else 2
    length = int(graph.tensors[cache].shape[axis])
    windowed = any(operator_code(model, o) == schema.BuiltinOperator.SLICE for o in graph.operators)
    scores = int(np.prod(graph.tensors[out].shape))
    if windowed or length <= block or (not is_value and scores > _MOST_SCORES):
        return False
    body = _body(model, graph, block, is_value=is_value)
    tensors = [graph.tensors[tensor] for tensor in (lhs, cache, parameters, out)]
    condition = _Writer.new(model, b"another_block")
    state = [condition.tensor([], _I), condition.tensor([], _I)]
    condition.graph.tensors += deepcopy(tensors)
    state += range(2, 2 + len(tensors))
    more = condition.tensor([], _B)
    condition.add("LESS", state[:2], [more], schema.LessOptionsT())
    condition.graph.inputs, condition.graph.outputs = state, [more]
    first = len(model.subgraphs)
    model.subgraphs += [condition.graph, body]

    graph.tensors, graph.operators = tensors, []
    graph.inputs, graph.outputs = [0, 1, 2], [3]
    outer = _Writer(model, graph)
    end = outer.scalar_of(2, [0, 0, 0, _END], 4)
    zeros = outer.like(3, _shape(tensors[3]))
    outer.add(
        "FILL", [outer.integers(_shape(tensors[3])), outer.constant(np.float32(0), _F)], [zeros], schema.FillOptionsT()
    )
    loop = schema.WhileOptionsT()
    loop.condSubgraphIndex, loop.bodySubgraphIndex = first, first + 1
    unread = [outer.tensor([], _I), outer.tensor([], _I)]
    unread += [outer.like(tensor, _shape(tensors[tensor])) for tensor in range(3)]
    outer.add("WHILE", [outer.integers(0), end, 0, 1, 2, zeros], [*unread, 3], loop)
    return True


def _body(model: Any, decomposition: Any, block: int, *, is_value: bool) -> Any:
    """One turn of the loop: the decomposition on the block at the first input, added to what the last input holds.

    A block that would pass the cache's end begins earlier; slots that an earlier one has had already count as 0.
    """
    axis = 3 if is_value else 2
    lhs, cache, parameters = (int(tensor) for tensor in decomposition.inputs)
    out = int(decomposition.outputs[0])
    graph = deepcopy(decomposition)
    graph.name = b"one_block"
    writer = _Writer(model, graph)
    whole = {tensor: _shape(decomposition.tensors[tensor]) for tensor in (lhs, cache, out)}
    _shorten(model, graph, {cache: axis} | ({lhs: 3} if is_value else {}), block)
    operators, graph.operators = graph.operators, []
    at, end = writer.tensor([], _I), writer.tensor([], _I)
    all_slots = writer.like(cache, whole[cache])
    all_shares = writer.like(lhs, whole[lhs]) if is_value else lhs
    so_far = writer.like(out, whole[out])

    shape, last, start = writer.tensor([4], _I), writer.tensor([], _I), writer.tensor([], _I)
    as_integers: Any = schema.ShapeOptionsT()
    as_integers.outType = _I
    writer.add("SHAPE", [all_slots], [shape], as_integers)
    length = writer.scalar_of(shape, [axis], 1)
    writer.add("SUB", [length, writer.integers(block)], [last], schema.SubOptionsT())
    writer.add("MINIMUM", [at, last], [start], schema.MaximumMinimumOptionsT())
    writer.slice(all_slots, axis, start, cache)
    if is_value:
        shares = writer.like(lhs, _shape(graph.tensors[lhs]))
        writer.slice(all_shares, 3, start, shares)
        done, new = writer.tensor([], _I), writer.tensor([1, 1, 1, block], _B)
        columns = writer.integers(np.arange(block).reshape(1, 1, 1, block))
        writer.add("SUB", [at, start], [done], schema.SubOptionsT())
        writer.add("GREATER_EQUAL", [columns, done], [new], schema.GreaterEqualOptionsT())
        writer.add("SELECT_V2", [new, shares, writer.constant(np.float32(0), _F)], [lhs], schema.SelectV2OptionsT())
    graph.operators += operators
    total = writer.like(out, whole[out])
    if is_value:
        writer.add("ADD", [so_far, out], [total], schema.AddOptionsT())
    else:
        begin = writer.begin(3, start)
        writer.add("DYNAMIC_UPDATE_SLICE", [so_far, out, begin], [total], None)
    following = writer.tensor([], _I)
    writer.add("ADD", [at, writer.integers(block)], [following], schema.AddOptionsT())
    read_only = [end, all_shares, all_slots, parameters]
    graph.inputs, graph.outputs = [at, *read_only, so_far], [following, *read_only, total]
    return graph


def _shorten(model: Any, graph: Any, axes: dict[int, int], block: int) -> None:
    """Give every tensor that runs along the slots `block` of them; `axes` says where the inputs do."""
    for operator in graph.operators:
        read, out = [int(tensor) for tensor in operator.inputs], int(operator.outputs[0])
        if operator_code(model, operator) == schema.BuiltinOperator.BATCH_MATMUL:
            if axes.get(read[1]) == 2:
                axes[out] = 3
            continue
        along = [axes[tensor] for tensor in read if tensor in axes and _same_shape(graph, tensor, out)]
        if along:
            axes[out] = along[0]
    for tensor, axis in axes.items():
        shape = _shape(graph.tensors[tensor])
        shape[axis] = block
        graph.tensors[tensor].shape = np.array(shape, np.int32)


def _same_shape(graph: Any, one: int, other: int) -> bool:
    return _shape(graph.tensors[one]) == _shape(graph.tensors[other])


def _shape(tensor: Any) -> list[int]:
    return [int(size) for size in tensor.shape]


@dataclass
class _Writer:
    """Adds tensors and operators to a graph of `model`."""

    model: Any
    graph: Any

    @classmethod
    def new(cls, model: Any, name: bytes) -> _Writer:
        graph: Any = schema.SubGraphT()
        graph.name, graph.tensors, graph.operators = name, [], []
        return cls(model, graph)

    def tensor(self, shape: list[int], kind: int, buffer: int = 0) -> int:
        tensor: Any = schema.TensorT()
        tensor.shape, tensor.type, tensor.buffer = np.array(shape, np.int32), kind, buffer
        tensor.name, tensor.hasRank = f"blocks_{len(self.graph.tensors)}".encode(), True
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def like(self, tensor: int, shape: list[int]) -> int:
        """A tensor of the type and scales of another one."""
        index = self.tensor(shape, self.graph.tensors[tensor].type)
        self.graph.tensors[index].quantization = self.graph.tensors[tensor].quantization
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
        sizes = self.integers(_shape(self.graph.tensors[out]))
        self.add("SLICE", [tensor, self.begin(axis, start), sizes], [out], schema.SliceOptionsT())

    def _code(self, builtin: int) -> int:
        for index, code in enumerate(self.model.operatorCodes):
            if code.builtinCode == builtin:
                return index
        code: Any = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), 1
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1
