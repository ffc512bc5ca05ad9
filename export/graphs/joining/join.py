"""Traced parts to the graph of a whole signature: copied once per call and connected.

What several calls compute alike is kept once, as the converter keeps it within one graph. Composites are the exception
to that, there and here; but here those of equal decompositions share one. E2B's passes have hundreds of composites of a
dozen kinds, and runtimes prepare each decomposition: fewer make smaller files that load faster.
"""

from __future__ import annotations

from collections.abc import Hashable
from copy import copy
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from ....runtime.bundle.flatbuffer import operator_code
from .kit import INPUTS, place
from .recording import Call, Recording, select_layer

_LAYER_AXIS = 2  # Of what `select_layer` selects from.


def join(kit: Any, recording: Recording, name: str, given: list[str]) -> Any:
    """The model with the one signature that `recording` says.

    Args:
        kit: object form of the converted `Kit`; it is changed into what is returned.
        recording: what the kit was made from.
        name: of the signature.
        given: names of its inputs, which are the recording's first values; those that nothing takes are left out.
    """
    graph = _Graph(kit, recording)
    for call in recording.calls:
        graph.add(call)
    inputs = {key: graph.held[value] for value, key in enumerate(given) if value in graph.held}
    outputs = {key: graph.held[value] for key, value in recording.outputs.items()}
    for suffix, tensors in (("", inputs), ("_output", outputs)):
        for key, index in tensors.items():
            graph.main.tensors[index].name = f"{name}_{key}{suffix}".encode()
    graph.main.inputs = np.array([*inputs.values()], np.int32)
    graph.main.outputs = np.array([*outputs.values()], np.int32)
    entry: Any = schema.SignatureDefT()
    entry.signatureKey, entry.subgraphIndex = name.encode(), 0
    entry.inputs, entry.outputs = _entries(inputs), _entries(outputs)
    graph.model.signatureDefs = [entry]
    return graph.model


def _entries(tensors: dict[str, int]) -> list[Any]:
    entries = []
    for name, index in sorted(tensors.items()):
        entry: Any = schema.TensorMapT()
        entry.name, entry.tensorIndex = name.encode(), index
        entries.append(entry)
    return entries


class _Graph:
    """The signature's graph as it grows; `held` has the tensor of each value, given ones as they are taken."""

    def __init__(self, kit: Any, recording: Recording) -> None:
        (entry,) = kit.signatureDefs
        self._kit, self._decompositions = kit.subgraphs[entry.subgraphIndex], kit.subgraphs
        self._taken = {tensor.name.decode().removeprefix(INPUTS): int(tensor.tensorIndex) for tensor in entry.inputs}
        self._made = {tensor.name.decode(): int(tensor.tensorIndex) for tensor in entry.outputs}
        self._recording = recording
        self._operators = [self._operators_of(part) for part in range(len(recording.parts))]
        self._shared: dict[int, int] = {}
        self._by_contents: dict[Hashable, int] = {}
        self._constants: dict[Hashable, int] = {}
        self._known: dict[Hashable, list[int]] = {}
        self.main = copy(self._kit)
        self.main.tensors, self.main.operators = [], []
        self.model = kit
        self.model.subgraphs = [self.main]
        self.held: dict[int, int] = {}

    def add(self, call: Call) -> None:
        """The operators of one call."""
        places = (self._taken.get(place(call.part, index)) for index in range(len(call.inputs)))
        values = {index: value for index, value in zip(places, call.inputs, strict=True) if index is not None}
        found: dict[int, int] = {-1: -1}  # Of an operand that is left out.

        def tensor(index: int) -> int:
            if index in found:
                return found[index]
            if index not in values:
                return self._constant(index)
            value = values[index]
            if value not in self.held:
                self.held[value] = self._add_tensor(index)
            return self.held[value]

        for operator in self._operators[call.part]:
            inputs = [tensor(int(index)) for index in operator.inputs]
            if self._recording.parts[call.part].function is select_layer and self._is_slice(operator):
                inputs[1] = self._first_of(call, int(operator.inputs[1]))
            outputs = [int(index) for index in operator.outputs]
            found |= zip(outputs, self._run(operator, inputs, outputs, call.name), strict=True)
        for index, value in enumerate(call.outputs):
            self.held[value] = tensor(self._made[place(call.part, index)])

    def _operators_of(self, part: int) -> list[Any]:
        """What the outputs of a part are made by, in order."""
        needed = {index for name, index in self._made.items() if name.partition(".")[0] == str(part)}
        operators = []
        for operator in reversed(self._kit.operators):
            if needed & {int(index) for index in operator.outputs}:
                needed |= {int(index) for index in operator.inputs}
                operators.append(operator)
        return operators[::-1]

    def _run(self, operator: Any, inputs: list[int], outputs: list[int], name: str) -> list[int]:
        """Tensors of what `operator` makes of `inputs`; added, unless there is the like."""
        key: Hashable = None
        if isinstance(operator.builtinOptions2, schema.StableHLOCompositeOptionsT):
            operator = copy(operator)
            operator.builtinOptions2 = copy(operator.builtinOptions2)
            index = operator.builtinOptions2.decompositionSubgraphIndex
            operator.builtinOptions2.decompositionSubgraphIndex = self._decomposition(index)
        else:
            kinds = [_contents((self._kit.tensors[index].type, self._kit.tensors[index].shape)) for index in outputs]
            options = _contents((operator.builtinOptions, operator.builtinOptions2, operator.customOptions))
            key = (operator.opcodeIndex, tuple(inputs), tuple(kinds), options)
            if key in self._known:
                return self._known[key]
            operator = copy(operator)
        made = [self._add_tensor(index, f"{name}.{len(self.main.operators)}") for index in outputs]
        operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array(made, np.int32)
        self.main.operators.append(operator)
        if key is not None:
            self._known[key] = made
        return made

    def _decomposition(self, index: int) -> int:
        """Index of what the kit has as subgraph `index`, or of the like."""
        if index not in self._shared:
            graph = self._decompositions[index]
            contents = _contents_of_graph(self.model, graph)
            if contents not in self._by_contents:
                self._by_contents[contents] = len(self.model.subgraphs)
                self.model.subgraphs.append(graph)
            self._shared[index] = self._by_contents[contents]
        return self._shared[index]

    def _add_tensor(self, index: int, name: str = "", buffer: int = 0) -> int:
        """A tensor like the kit's `index`."""
        tensor = copy(self._kit.tensors[index])
        tensor.name, tensor.buffer = name.encode(), buffer
        self.main.tensors.append(tensor)
        return len(self.main.tensors) - 1

    def _constant(self, index: int) -> int:
        if index not in self._constants:
            buffer = self._kit.tensors[index].buffer
            self._constants[index] = self._add_tensor(index, f"constant.{index}", buffer)
        return self._constants[index]

    def _first_of(self, call: Call, index: int) -> int:
        """A constant like the kit's `index`, which says where a SLICE begins: at the layer of `call`."""
        if call.layer is None:
            raise AssertionError(f"{call.name}: selects no layer")
        if (index, call.layer) not in self._constants:
            traced = self._recording.parts[call.part].before[-1]
            begin = np.frombuffer(bytes(self.model.buffers[self._kit.tensors[index].buffer].data), np.int32).copy()
            if list(begin) != [traced if axis == _LAYER_AXIS else 0 for axis in range(4)]:
                raise AssertionError(f"the converter selects layer {traced} by a slice from {list(begin)}")
            begin[_LAYER_AXIS] = call.layer
            buffer: Any = schema.BufferT()
            buffer.data = np.frombuffer(begin.tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            name = f"constant.{index}.{call.layer}"
            self._constants[index, call.layer] = self._add_tensor(index, name, len(self.model.buffers) - 1)
        return self._constants[index, call.layer]

    def _is_slice(self, operator: Any) -> bool:
        return operator_code(self.model, operator) == schema.BuiltinOperator.SLICE


def _contents_of_graph(model: Any, graph: Any) -> Hashable:
    """What a graph computes, without names; graphs of composites of their own are taken for different."""
    tensors = [
        (
            *map(_contents, (tensor.shape, tensor.type, tensor.quantization)),
            _contents(model.buffers[tensor.buffer].data),
        )
        for tensor in graph.tensors
    ]
    return (tuple(tensors), *map(_contents, (graph.inputs, graph.outputs, graph.operators)))


def _contents(value: Any) -> Hashable:
    """What `value` holds, to be compared."""
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, (tuple, list)):
        return tuple(_contents(part) for part in value)
    if hasattr(value, "__dict__"):
        return (type(value).__name__, *((key, _contents(part)) for key, part in vars(value).items()))
    return value
