"""Whether a .tflite flatbuffer's indices, sizes and counts can be true, before anything follows them.

LiteRT verifies that a flatbuffer's offsets stay within it; Python's reader verifies nothing, and takes an index past a
vector's end for what happens to lie there. Tables are read by their places in tensorflow/compiler/mlir/lite/schema/
schema.fbs, as that reader takes many seconds for a large model. Operators' meaning is not looked at.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from ai_edge_litert import schema_py_generated as schema

# E2B has some 60,000 tensors and as many operators in all its signatures.
_SUBGRAPHS, _SIGNATURES, _BUFFERS, _OPCODES = 20_000, 256, 200_000, 1_000
_TENSORS = _OPERATORS = 500_000
_LIST, _LISTED = 65_536, 5_000_000
_RANK = 8
_TENSOR_BYTES = 16 << 30
_TYPES = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
_BITS = {
    "FLOAT32": 32, "FLOAT16": 16, "BFLOAT16": 16, "FLOAT64": 64, "INT2": 2, "INT4": 4, "UINT4": 4, "INT8": 8,
    "UINT8": 8, "INT16": 16, "UINT16": 16, "INT32": 32, "UINT32": 32, "INT64": 64, "UINT64": 64, "BOOL": 8,
}  # fmt: skip
_COMPOSITE = schema.BuiltinOperator.STABLEHLO_COMPOSITE
_COMPOSITE_OPTIONS = schema.BuiltinOptions2.StableHLOCompositeOptions


Bytes = bytes | memoryview | mmap.mmap


class _Table:
    """A flatbuffer's table; fields are named by their number in the schema."""

    def __init__(self, file: _File, at: int) -> None:
        self._file, self._at = file, at
        self._places = file.places(at)

    def number(self, field: int, form: str) -> int:
        """A scalar; 0 where it is left out."""
        place = self._place(field)
        return self._file.read(form, place)[0] if place else 0

    def table(self, field: int) -> _Table | None:
        place = self._place(field)
        return _Table(self._file, place + self._file.read("<I", place)[0]) if place else None

    def count(self, field: int) -> int:
        """Elements of a vector or bytes of a text."""
        place = self._place(field)
        return self._file.read("<I", place + self._file.read("<I", place)[0])[0] if place else 0

    def tables(self, field: int, limit: int, what: str) -> list[_Table]:
        begin, offsets = self._vector(field, limit, what, "I")
        return [_Table(self._file, begin + 4 * at + offset) for at, offset in enumerate(offsets)]

    def integers(self, field: int, limit: int, what: str) -> tuple[int, ...]:
        return self._vector(field, limit, what, "i")[1]

    def text(self, field: int) -> str:
        return bytes(self._vector(field, _LIST, "bytes in a name", "B")[1]).decode()

    def _vector(self, field: int, limit: int, what: str, form: str) -> tuple[int, tuple[int, ...]]:
        place = self._place(field)
        if not place:
            return 0, ()
        begin = place + self._file.read("<I", place)[0]
        count = _at_most(limit, what, self._file.read("<I", begin)[0])
        return begin + 4, self._file.read(f"<{count}{form}", begin + 4)

    def _place(self, field: int) -> int:
        offset = self._places[field] if field < len(self._places) else 0
        return self._at + offset if offset else 0


class _File:
    """Reads that stay within a file."""

    def __init__(self, content: Bytes) -> None:
        self.content = content
        self._known: dict[int, tuple[int, ...]] = {}

    def read(self, form: str, at: int) -> tuple[int, ...]:
        if at < 0:  # Counted from the end.
            raise ValueError(f"an offset leads to byte {at}")
        return struct.unpack_from(form, self.content, at)

    def places(self, table: int) -> tuple[int, ...]:
        """Where the fields of a table lie, from its vtable, which most tables of a kind share."""
        at = table - self.read("<i", table)[0]
        if at not in self._known:
            size = self.read("<H", at)[0]
            self._known[at] = self.read(f"<{max(size - 4, 0) // 2}H", at + 4)
        return self._known[at]


@dataclass
class _Left:
    """How much of the whole file may still be looked at: tables may be shared, so a small file can name many."""

    tensors: int = _TENSORS
    operators: int = _OPERATORS
    listed: int = _LISTED


def check_model(content: Bytes) -> None:
    """Look through the flatbuffer `content`, with the data behind it.

    Raises:
        ValueError: naming what cannot be true.
        struct.error: an offset leads out of the file.
    """
    file = _File(content)
    model = _Table(file, file.read("<I", 0)[0])
    buffers = _buffer_sizes(model.tables(4, _BUFFERS, "buffers"), len(content))
    # A code of eight bits, and the one that follows it in later versions.
    codes = [max(code.number(0, "<b"), code.number(3, "<i")) for code in model.tables(1, _OPCODES, "operator codes")]
    graphs = model.tables(2, _SUBGRAPHS, "subgraphs")
    left, decompositions, counts = _Left(), TopologicalSorter[int](), list[int]()
    for at, graph in enumerate(graphs):
        where = f"subgraph {at}"
        counts.append(_check_tensors(graph, buffers, left, where))
        _check_indices(graph, 1, counts[at], left, f"{where}: an input")
        _check_indices(graph, 2, counts[at], left, f"{where}: an output")
        for inner in _check_operators(graph, codes, counts[at], left, where):
            if not 0 <= inner < len(graphs):
                raise ValueError(f"{where}: a composite names subgraph {inner} of {len(graphs)}")
            decompositions.add(at, inner)
    try:
        decompositions.prepare()
    except CycleError as error:
        raise ValueError(f"composites of subgraphs {error.args[1]} contain each other") from error
    _check_signatures(model, counts)


def _buffer_sizes(buffers: Sequence[_Table], size: int) -> list[int]:
    """Bytes of each buffer, inside the flatbuffer or behind it."""
    sizes = []
    for at, buffer in enumerate(buffers):
        offset, behind, inside = buffer.number(1, "<Q"), buffer.number(2, "<Q"), buffer.count(0)
        if max(offset + behind, inside) > size:
            raise ValueError(f"buffer {at} ends at byte {max(offset + behind, inside):,} of {size:,}")
        sizes.append(behind if offset > 1 else inside)
    return sizes


def _check_tensors(graph: _Table, buffers: Sequence[int], left: _Left, where: str) -> int:
    """The number of tensors."""
    tensors = graph.tables(0, left.tensors, "tensors")
    left.tensors -= len(tensors)
    for at, tensor in enumerate(tensors):
        shape, kind, buffer = tensor.integers(0, _RANK, "axes"), tensor.number(1, "<b"), tensor.number(2, "<I")
        if shape and min(shape) < 0:
            raise ValueError(f"{where}: tensor {at} has the shape {list(shape)}")
        if kind not in _TYPES:
            raise ValueError(f"{where}: tensor {at} has the unknown type {kind}")
        needed = math.prod(shape) * _BITS.get(_TYPES[kind], 0) // 8
        if needed > _TENSOR_BYTES:
            raise ValueError(f"{where}: tensor {at} of the shape {list(shape)} takes {needed:,} bytes")
        if buffer >= len(buffers):
            raise ValueError(f"{where}: tensor {at} names buffer {buffer} of {len(buffers)}")
        held, sparse = buffers[buffer], tensor.table(6)
        if held and held < needed and sparse is None:
            raise ValueError(
                f"{where}: tensor {at} of the shape {list(shape)} takes {needed:,} bytes, but has {held:,}"
            )
    return len(tensors)


def _check_operators(graph: _Table, codes: Sequence[int], tensors: int, left: _Left, where: str) -> list[int]:
    """The subgraphs that composites name."""
    operators, inner = graph.tables(3, left.operators, "operators"), []
    left.operators -= len(operators)
    for at, operator in enumerate(operators):
        code = operator.number(0, "<I")
        if code >= len(codes):
            raise ValueError(f"{where}: operator {at} names code {code} of {len(codes)}")
        _check_indices(operator, 1, tensors, left, f"{where}: operator {at}")
        _check_indices(operator, 2, tensors, left, f"{where}: operator {at}")
        if codes[code] == _COMPOSITE:
            options = operator.table(12)
            if options is None or operator.number(11, "<B") != _COMPOSITE_OPTIONS:
                raise ValueError(f"{where}: operator {at}, a composite, has no options of one")
            inner.append(options.number(1, "<i"))
    return inner


def _check_indices(table: _Table, field: int, tensors: int, left: _Left, what: str) -> None:
    indices = table.integers(field, min(_LIST, left.listed), "tensors of operators")
    left.listed -= len(indices)
    # -1 stands for an operand that was left out.
    if indices and (min(indices) < -1 or max(indices) >= tensors):
        wrong = next(index for index in indices if not -1 <= index < tensors)
        raise ValueError(f"{what} names tensor {wrong} of {tensors}")


def _check_signatures(model: _Table, counts: Sequence[int]) -> None:
    names = set[str]()
    for at, signature in enumerate(model.tables(7, _SIGNATURES, "signatures")):
        name, graph = signature.text(2), signature.number(4, "<I")
        if not name or name in names:
            raise ValueError(f"two signatures are called {name!r}" if name else f"signature {at} has no name")
        names.add(name)
        if graph >= len(counts):
            raise ValueError(f"signature {name} names subgraph {graph} of {len(counts)}")
        for tensor in (entry for field in (0, 1) for entry in signature.tables(field, _LIST, "tensors of a signature")):
            index = tensor.number(1, "<I")
            if index >= counts[graph]:
                raise ValueError(f"signature {name} names tensor {index} of {counts[graph]}")
            if not tensor.text(0):
                raise ValueError(f"signature {name}: tensor {index} has no name")


def _at_most(limit: int, what: str, count: int) -> int:
    if count > limit:
        raise ValueError(f"{count:,} {what}, expected at most {limit:,}")
    return count
