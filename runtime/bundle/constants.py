"""Constant tensors of a .tflite model, where they lie in its bytes: weights and the small numbers of its graphs.

LiteRT's schema (tensorflow/compiler/mlir/lite/schema/schema.fbs) keeps a buffer inside the flatbuffer, or behind it at
`offset` with `size`, both counted from the beginning of the model.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from ..errors import BundleError
from .model_file import TYPE_NAMES

Range = tuple[int, int]


@dataclass(frozen=True)
class Quantization:
    """How codes become values: `code * scale`, after a zero point is taken off.

    Attributes:
        scales: float32, one for each entry of axis `dimension`, or a single one; blockwise, `[channels, blocks]`.
        zero_points: int64, as many as scales or none.
        dimension: the axis that scales belong to.
        block: how many entries of the last axis share a scale; 0 where it is the whole channel.
    """

    scales: np.ndarray
    zero_points: np.ndarray
    dimension: int = 0
    block: int = 0

    @cached_property
    def key(self) -> tuple[bytes, bytes, int, int]:
        """Equal for equal quantizations."""
        return self.scales.tobytes(), self.zero_points.tobytes(), self.dimension, self.block


@dataclass(frozen=True)
class Constant:
    """One constant as a model uses it: all tensors with these bytes, this name, form and quantization.

    Attributes:
        name: of the tensor; the converter's own invention for small ones.
        dtype: `float32`, `int8`, `int4`, ...
        shape: as the tensor has it.
        quantization: None for plain values.
        content: the bytes, not copied.
        place: first byte and the one after the last, from the beginning of the model.
        parameters: where its scales and zero points lie, for every tensor that is meant.
        signatures: those whose graphs, composites included, use it.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    quantization: Quantization | None
    content: memoryview
    place: Range
    parameters: tuple[Range, ...] = ()
    signatures: frozenset[str] = frozenset()

    @property
    def elements(self) -> int:
        """How many values."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class ModelConstants:
    """All constants of one model.

    Attributes:
        constants: each once; a buffer that is used in two ways is two entries.
        small: by signature, how often its graphs, composites included, use each float constant that lies inside the
            flatbuffer (epsilons, scales, caps), by dtype and bytes.
        external: where buffers lie behind the flatbuffer, in order.
        flatbuffer_end: where the flatbuffer ends at the latest: where the first of those begins; the model's length if
            there is none.
        size: of the model in bytes.
    """

    constants: tuple[Constant, ...]
    small: dict[str, Counter[tuple[str, bytes]]]
    external: tuple[Range, ...]
    flatbuffer_end: int
    size: int


@dataclass
class _Reader:
    content: memoryview
    where: str
    model: Any = field(init=False)
    base: int = field(init=False)

    def __post_init__(self) -> None:
        self.model = schema.Model.GetRootAs(self.content, 0)
        self.base = _address(np.frombuffer(self.content, np.uint8))

    def range_of(self, view: np.ndarray) -> Range:
        """Where a view of the model's bytes lies."""
        begin = _address(view) - self.base
        return begin, begin + view.nbytes

    def buffer(self, index: int) -> Range | None:
        """Where the buffer's bytes lie; None for one that has none, as that of a computed tensor."""
        entry = self.model.Buffers(index)
        if entry.Offset() > 1:
            begin, end = entry.Offset(), entry.Offset() + entry.Size()
            if end > len(self.content):
                raise BundleError(
                    f"{self.where}: buffer {index} ends at byte {end:,}, but the model has {len(self.content):,}"
                )
            return begin, end
        return self.range_of(entry.DataAsNumpy()) if entry.DataLength() else None


def read_constants(content: memoryview, where: str) -> ModelConstants:
    """Every constant of the model in `content`; nothing of their bytes is copied. `where` names it in errors.

    Raises:
        BundleError: not a readable model, or a buffer reaches past its end.
    """
    try:
        return _read(_Reader(content, where))
    except BundleError:
        raise
    except Exception as error:  # The flatbuffer reader fails in many ways on bytes that are no model.
        raise BundleError(f"{where}: not a readable .tflite model ({error})") from error


def _read(reader: _Reader) -> ModelConstants:
    users = _signatures_of_graphs(reader.model)
    external = tuple(sorted(set(_external(reader))))
    first = external[0][0] if external else len(reader.content)
    found: dict[Any, Constant] = {}
    small: dict[str, Counter[tuple[str, bytes]]] = {}
    for graph_index in range(reader.model.SubgraphsLength()):
        signatures = users.get(graph_index, Counter())
        for constant in _graph_constants(reader, graph_index):
            key = (constant.place, constant.name, constant.dtype, constant.shape)
            key = (*key, constant.quantization.key if constant.quantization else None)
            known = found.get(key, constant)
            merged = dict.fromkeys((*known.parameters, *constant.parameters))
            found[key] = replace(known, parameters=tuple(merged), signatures=known.signatures | set(signatures))
            if constant.place[1] <= first and constant.dtype.startswith("float"):
                entry = (constant.dtype, bytes(constant.content))
                for signature, times in signatures.items():
                    small.setdefault(signature, Counter())[entry] += times
    return ModelConstants(tuple(found.values()), small, external, first, len(reader.content))


def _graph_constants(reader: _Reader, graph_index: int) -> Iterator[Constant]:
    graph = reader.model.Subgraphs(graph_index)
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        place = reader.buffer(tensor.Buffer()) if tensor.Buffer() else None
        if place is None:
            continue
        shape = tuple(int(size) for size in tensor.ShapeAsNumpy()) if tensor.ShapeLength() else ()
        quantization, parameters = _quantization(reader, graph, tensor)
        yield Constant(
            (tensor.Name() or b"").decode(),
            TYPE_NAMES.get(tensor.Type(), f"type {tensor.Type()}"),
            shape,
            quantization,
            reader.content[place[0] : place[1]],
            place,
            parameters,
        )


def _quantization(reader: _Reader, graph: Any, tensor: Any) -> tuple[Quantization | None, tuple[Range, ...]]:
    entry = tensor.Quantization()
    if entry is None:
        return None, ()
    if entry.DetailsType() == schema.QuantizationDetails.BlockwiseQuantization:
        return _blockwise(reader, graph, entry)
    if not entry.ScaleLength():
        return None, ()
    scales = entry.ScaleAsNumpy()
    zeros = entry.ZeroPointAsNumpy() if entry.ZeroPointLength() else np.zeros(0, np.int64)
    places = tuple(reader.range_of(part) for part in (scales, zeros) if len(part))
    return Quantization(scales, zeros, entry.QuantizedDimension()), places


def _blockwise(reader: _Reader, graph: Any, entry: Any) -> tuple[Quantization | None, tuple[Range, ...]]:
    details: Any = schema.BlockwiseQuantization()
    details.Init(entry.Details().Bytes, entry.Details().Pos)
    tensor = graph.Tensors(details.Scales())
    place = reader.buffer(tensor.Buffer())
    if place is None:
        raise BundleError(f"{reader.where}: the scales of a blockwise tensor are no constant")
    scales = np.frombuffer(reader.content[place[0] : place[1]], np.float16).reshape(tensor.ShapeAsNumpy())
    return Quantization(scales.astype(np.float32), np.zeros(0, np.int64), 0, details.BlockSize()), (place,)


def _external(reader: _Reader) -> Iterator[Range]:
    for index in range(reader.model.BuffersLength()):
        if reader.model.Buffers(index).Offset() > 1 and (place := reader.buffer(index)):
            yield place


def _signatures_of_graphs(model: Any) -> dict[int, Counter[str]]:
    """How often each graph runs in each signature: as its own, or as the decomposition of a composite."""
    users: dict[int, Counter[str]] = {}

    def visit(graph_index: int, signature: str) -> None:
        users.setdefault(graph_index, Counter())[signature] += 1
        graph = model.Subgraphs(graph_index)
        for index in range(graph.OperatorsLength()):
            operator = graph.Operators(index)
            if operator.BuiltinOptions2Type() == schema.BuiltinOptions2.StableHLOCompositeOptions:
                options: Any = schema.StableHLOCompositeOptions()
                options.Init(operator.BuiltinOptions2().Bytes, operator.BuiltinOptions2().Pos)
                visit(options.DecompositionSubgraphIndex(), signature)

    for index in range(model.SignatureDefsLength()):
        entry = model.SignatureDefs(index)
        visit(entry.SubgraphIndex(), entry.SignatureKey().decode())
    return users


def _address(view: np.ndarray) -> int:
    return view.__array_interface__["data"][0]
