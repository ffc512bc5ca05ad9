"""The context that a bundle is loaded with, written into its models where they have a placeholder for it.

What is replaced is what LiteRT-LM 0.18.1 replaces (LiteRT's `magic_number_utils.cc`): in the graph of every signature
and in what its composites stand for, the tensors' dimensions, the constants that operators take for sizes, and the
integers among an `odml.cache_update`'s attributes, each where it is a multiple of the placeholder. Nothing changes its
place, so the weights stay where they are; the bodies of loops follow when they run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers

from ...errors import UserError
from ..model_file import ModelInfo, TensorInfo
from ..names import CACHE_UPDATE
from .placeholder import is_placeholder, replaced

_Builtin = schema.BuiltinOperator
# The operand that says a size, by operator.
_SIZES = {_Builtin.FILL: 0, _Builtin.RESHAPE: 1, _Builtin.BROADCAST_TO: 1, _Builtin.RANGE: 1, _Builtin.SLICE: 2}
_INTEGERS = {schema.TensorType.INT32: np.int32, schema.TensorType.INT64: np.int64}
# LiteRT-LM rounds a placeholder down to a multiple of this where nothing says a context.
_ROUNDED_TO = 256


class Edit(NamedTuple):
    """Bytes to put into a model, `at` its beginning plus so many."""

    at: int
    content: bytes


def choose_context(asked: int | None, stated: int, slots: int, smallest: int, reserve: int, where: str) -> int:
    """The context to load a bundle with, prompt and answer together, in tokens.

    Args:
        asked: by a person; None for what the bundle itself asks for.
        stated: the bundle's `max_num_tokens`; 0 if it says none.
        slots: the length of its caches, as the file has it.
        smallest: the shortest context that its graphs can run.
        reserve: what verify may write past the context, where the caches' length is no placeholder.
        where: names the bundle in errors.

    Raises:
        UserError: `asked` is more than the bundle can take, or less.
    """
    if is_placeholder(slots):
        longest = slots - 1
        usual = stated if 0 < stated < slots else max(slots // _ROUNDED_TO * _ROUNDED_TO, min(slots - 1, smallest))
    else:
        # LiteRT-LM takes the mask's length where no maximum is stated; the last round needs room past the end.
        longest = usual = min(stated or slots - reserve, slots)
    if asked is not None and not smallest <= asked <= longest:
        how = f"expected {smallest} to {longest}" if is_placeholder(slots) else f"this bundle's is fixed, at {longest}"
        raise UserError(f"--context-length: {asked} for {where}, {how}; export with another --context-length")
    return asked if asked is not None else usual


def with_context(info: ModelInfo, placeholder: int, length: int) -> ModelInfo:
    """What a model says of itself when `length` has replaced `placeholder`."""

    def shaped(tensors: Sequence[TensorInfo]) -> tuple[TensorInfo, ...]:
        return tuple(
            replace(tensor, shape=tuple(replaced(size, placeholder, length) for size in tensor.shape))
            for tensor in tensors
        )

    signatures = (
        replace(signature, inputs=shaped(signature.inputs), outputs=shaped(signature.outputs))
        for signature in info.signatures
    )
    return replace(info, signatures=tuple(signatures))


def context_edits(content: memoryview, placeholder: int, length: int) -> list[Edit]:
    """What to write into the model `content` so that `length` replaces `placeholder`."""
    return list(_Rewriter(content, placeholder, length).edits())


@dataclass
class _Rewriter:
    content: memoryview
    placeholder: int
    length: int
    model: Any = field(init=False)
    base: int = field(init=False)

    def __post_init__(self) -> None:
        self.model = schema.Model.GetRootAs(self.content, 0)
        self.base = _address(np.frombuffer(self.content, np.uint8))

    def edits(self) -> Iterator[Edit]:
        """Of every graph that a signature reaches, each once."""
        reached = dict.fromkeys(
            self.model.SignatureDefs(index).SubgraphIndex() for index in range(self.model.SignatureDefsLength())
        )
        waiting = list(reached)
        for index in waiting:
            graph = self.model.Subgraphs(index)
            for place in range(graph.TensorsLength()):
                tensor = graph.Tensors(place)
                if tensor.ShapeLength():
                    yield from self._integers(tensor.ShapeAsNumpy())
            for place in range(graph.OperatorsLength()):
                operator = graph.Operators(place)
                options = _composite(operator)
                if options is None:
                    yield from self._size(graph, operator)
                    continue
                if options.Name() == CACHE_UPDATE.encode():
                    yield from self._attributes(options)
                inner = options.DecompositionSubgraphIndex()
                if inner not in reached:
                    reached[inner] = None
                    waiting.append(inner)

    def _size(self, graph: Any, operator: Any) -> Iterator[Edit]:
        code = self.model.OperatorCodes(operator.OpcodeIndex())
        operand = _SIZES.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()))
        if operand is None or operand >= operator.InputsLength():
            return
        tensor = graph.Tensors(operator.Inputs(operand))
        buffer, kind = self.model.Buffers(tensor.Buffer()), _INTEGERS.get(tensor.Type())
        if kind is not None and buffer.DataLength():
            yield from self._integers(buffer.DataAsNumpy().view(kind))

    def _integers(self, values: np.ndarray) -> Iterator[Edit]:
        """Multiples of the placeholder among `values`, a view of the model's bytes."""
        for place in np.flatnonzero((values % self.placeholder == 0) & (values != 0)):
            new = np.array(replaced(int(values[place]), self.placeholder, self.length), values.dtype)
            yield Edit(_address(values) - self.base + int(place) * values.itemsize, new.tobytes())

    def _attributes(self, options: Any) -> Iterator[Edit]:
        stored = options.CompositeAttributesAsNumpy()
        content = bytearray(stored.tobytes())
        attributes: Any = flexbuffers.GetRoot(content).AsMap
        for key in (entry.AsKey for entry in attributes.Keys):
            value = attributes[key]
            if value.IsInt and value.AsInt and value.AsInt % self.placeholder == 0:
                value.MutateInt(replaced(value.AsInt, self.placeholder, self.length))
        yield Edit(_address(stored) - self.base, bytes(content))


def _composite(operator: Any) -> Any:
    """The options of a composite; None for other operators."""
    if operator.BuiltinOptions2Type() != schema.BuiltinOptions2.StableHLOCompositeOptions:
        return None
    options: Any = schema.StableHLOCompositeOptions()
    options.Init(operator.BuiltinOptions2().Bytes, operator.BuiltinOptions2().Pos)
    return options


def _address(view: np.ndarray) -> int:
    return view.__array_interface__["data"][0]
