"""Change a finished .tflite model: its weights, constants, graphs. For planting faults."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from gemma_mtp.runtime.bundle.flatbuffer import operator_code, operator_name, pack, parse

_DTYPES = {schema.TensorType.FLOAT32: np.float32, schema.TensorType.INT32: np.int32, schema.TensorType.INT8: np.int8}
# The flatbuffer may grow by so much before the weights behind it; a multiple of their alignment.
_ROOM = 1 << 18


@functools.lru_cache(maxsize=8)
def _parsed(content: bytes) -> bytes:
    """The pickled object form of a model: reading that takes a fraction of the time that parsing takes."""
    return pickle.dumps(parse(content))


class Surgery:
    """A model's `content` opened for changes; `packed` is the changed one."""

    def __init__(self, content: bytes) -> None:
        self._content = bytearray(content)
        self.model = pickle.loads(_parsed(content))

    def entries(self) -> Iterator[tuple[Any, Any]]:
        """Every signature and its graph."""
        for signature in self.model.signatureDefs:
            yield signature, self.model.subgraphs[signature.subgraphIndex]

    def weight(self, name: str) -> np.ndarray:
        """A weight, to be changed in place."""
        tensor = self.weight_tensors(name)[0]
        buffer, dtype = self.model.buffers[tensor.buffer], np.dtype(_DTYPES[tensor.type])
        flat = np.frombuffer(self._content, dtype, buffer.size // dtype.itemsize, buffer.offset)
        return flat.reshape(tensor.shape)

    def weight_tensors(self, name: str) -> list[Any]:
        """The tensors of all graphs that use a weight; they share its bytes."""
        found = [t for _, graph in self.entries() for t in graph.tensors if t.name == name.encode() and t.buffer]
        assert found, f"there is no weight {name}"
        return found

    def constant(self, graph: Any, index: int) -> np.ndarray | None:
        """A small constant's value; None if the tensor is computed or a weight."""
        tensor = graph.tensors[int(index)]
        data = self.model.buffers[tensor.buffer].data
        return None if data is None or not len(data) else np.frombuffer(bytes(data), _DTYPES[tensor.type])

    def set_constant(self, graph: Any, index: int, values: np.ndarray) -> None:
        """Give a small constant another value, in this graph alone."""
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        graph.tensors[int(index)].buffer = len(self.model.buffers)
        self.model.buffers.append(buffer)

    def operators(self, graph: Any, name: str) -> list[Any]:
        """All operators of a builtin kind."""
        code = getattr(schema.BuiltinOperator, name)
        return [operator for operator in graph.operators if operator_code(self.model, operator) == code]

    def producer(self, graph: Any, index: int) -> Any:
        """The operator that computes a tensor."""
        return next(operator for operator in graph.operators if int(index) in map(int, operator.outputs))

    def output(self, signature: Any, name: str) -> Any:
        """A signature's entry for one of its outputs."""
        return next(entry for entry in signature.outputs if entry.name == name.encode())

    def composites(self, graph: Any, name: str) -> list[Any]:
        """All operators of a composite kind."""
        return [operator for operator in graph.operators if operator_name(self.model, operator) == name]

    def rewire(self, graph: Any, old: int, new: int, *, output: bool = True) -> None:
        """Let everything that takes tensor `old` take `new`; with `output`, the graph and its signature as well."""
        for operator in graph.operators:
            if int(new) not in map(int, operator.outputs):
                operator.inputs = np.array([new if int(i) == int(old) else i for i in operator.inputs], np.int32)
        if output:
            graph.outputs = np.array([new if int(i) == int(old) else i for i in graph.outputs], np.int32)
            for signature, other in self.entries():
                for entry in signature.outputs if other is graph else ():
                    entry.tensorIndex = int(new) if entry.tensorIndex == int(old) else entry.tensorIndex

    def scale(self, graph: Any, index: int, factor: float) -> None:
        """Multiply a computed tensor by `factor` before anything takes it."""
        like = self.operators(graph, "MUL")[0]
        factors = self.constant_tensor(graph, np.full(1, factor, np.float32))
        scaled = self.tensor_like(graph, index)
        producer = self.producer(graph, index)
        self.rewire(graph, index, scaled)
        product = operator_like(like, [index, factors], [scaled])
        graph.operators.insert(graph.operators.index(producer) + 1, product)

    def constant_tensor(self, graph: Any, values: np.ndarray) -> int:
        """A new constant."""
        tensor = schema.TensorT()
        tensor.shape, tensor.name = np.array(values.shape, np.int32), b"planted"
        tensor.type = next(code for code, dtype in _DTYPES.items() if dtype == values.dtype)
        graph.tensors.append(tensor)
        self.set_constant(graph, len(graph.tensors) - 1, values)
        return len(graph.tensors) - 1

    def tensor_like(self, graph: Any, index: int) -> int:
        """A new computed tensor of the shape and type of another."""
        like, tensor = graph.tensors[int(index)], schema.TensorT()
        tensor.shape, tensor.type, tensor.buffer, tensor.name = like.shape, like.type, 0, like.name + b"'"
        graph.tensors.append(tensor)
        return len(graph.tensors) - 1

    def packed(self) -> bytes:
        """The changed model; weights move back to make room for a flatbuffer that has grown."""
        external = [buffer for buffer in self.model.buffers if buffer.offset]
        first = min(buffer.offset for buffer in external)
        for buffer in external:
            buffer.offset += _ROOM
        head = pack(self.model)
        assert len(head) <= first + _ROOM
        return head.ljust(first + _ROOM, b"\0") + bytes(self._content[first:])


def operator_like(like: Any, inputs: list[Any], outputs: list[int]) -> Any:
    """An operator of the kind and with the options of another."""
    copy = schema.OperatorT()
    copy.opcodeIndex = like.opcodeIndex
    copy.builtinOptionsType, copy.builtinOptions = like.builtinOptionsType, like.builtinOptions
    copy.inputs, copy.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
    return copy
