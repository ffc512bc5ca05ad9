"""What compared each byte of a bundle, and which bytes nothing compared.

A part is `compared` where its bytes, or the values that they stand for, are held against the checkpoint (or must be
zero), and `run` where only what they compute is. Every byte belongs to exactly one part.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from litert_lm_builder import litertlm_core

from ...bundle.constants import Constant, ModelConstants, Range, read_constants
from ...bundle.container import BundleFile
from ...bundle.flatbuffer import pack, parse
from ...bundle.names import EMBEDDER, MTP_DRAFTER, PER_LAYER_EMBEDDER, PREFILL_DECODE
from .report import COMPARED, NOT_COMPARED, RUN, Covered, Stage

# Stages that run a model's graphs, and stages that read a section of a kind.
_RUN_IN = {
    PREFILL_DECODE: ("prefill", "decode and verify"),
    EMBEDDER: ("embedders",),
    PER_LAYER_EMBEDDER: ("embedders",),
    MTP_DRAFTER: ("drafter",),
}
_READ_IN = {
    "LlmMetadataProto": ("metadata",),
    "ExecutorMetadataProto": ("metadata",),
    "HF_Tokenizer_Zlib": ("metadata",),
    "SP_Tokenizer": ("metadata",),
    "header": ("metadata",),
}
_WEIGHTS, _PARAMETERS, _UNMATCHED = "weights", "scales and zero points", "constants that are no parameter's"
_SMALL, _GRAPH, _PADDING = "small constants", "graphs", "padding"
_SCAN_BYTES = 64 << 20


@dataclass(frozen=True)
class _Piece:
    section: str
    part: str
    begin: int
    end: int
    by: tuple[str, ...]


@dataclass
class Layout:
    """A bundle's bytes by what they are. `mark` notes which constants were compared.

    Attributes:
        content: the whole file, mapped.
        bundle: the file.
        constants: of each model that LiteRT-LM's MTP runs, by model type.
    """

    content: memoryview
    bundle: BundleFile
    constants: dict[str, ModelConstants]
    _compared: dict[str, list[Constant]] = field(default_factory=dict)

    def mark(self, model: str, constant: Constant, *, same: bool) -> None:
        """Every value of `constant` was compared, if `same`; not so where its form made that impossible."""
        if same:
            self._compared.setdefault(model, []).append(constant)

    def stray_bytes(self) -> list[str]:
        """Where padding is not zero, one line each."""
        found = []
        for piece in self._pieces():
            place = _first_set(self.content[piece.begin : piece.end]) if piece.part == _PADDING else None
            if place is not None:
                value = self.content[piece.begin + place]
                found.append(f"byte {piece.begin + place:,}, padding of {piece.section}, is {value}, expected 0")
        return found

    def coverage(self, stages: Mapping[str, Stage]) -> tuple[Covered, ...]:
        """Every byte of the file, by section and part.

        Args:
            stages: by name, after they ran.
        """
        totals: dict[tuple[str, str, tuple[str, ...]], int] = {}
        for piece in self._pieces():
            key = piece.section, piece.part, piece.by
            totals[key] = totals.get(key, 0) + piece.end - piece.begin
        found = []
        for (section, part, by), count in totals.items():
            done = bool(by) and all(stages[name].has_run for name in by)
            how = (RUN if part in (_SMALL, _GRAPH) else COMPARED) if done else NOT_COMPARED
            found.append(Covered(section, part, count, how, ", ".join(by) if done else ""))
        return tuple(found)

    def _pieces(self) -> Iterator[_Piece]:
        end_at = litertlm_core.HEADER_END_LOCATION_BYTE_OFFSET
        at, size = int.from_bytes(self.content[end_at : end_at + 8], "little"), len(self.content)
        yield _Piece("header", "places and items", 0, at, _READ_IN["header"])
        models = self.bundle.model_sections()
        for section in sorted(self.bundle.sections, key=lambda section: section.begin):
            if section.begin > at:
                yield _Piece("file", _PADDING, at, section.begin, ("weights",))
            name, begin, end = section.model_type or section.kind, max(at, section.begin), section.end
            if section is models.get(name) and name in self.constants and begin == section.begin:
                if shared := self.bundle.shared(section):
                    end = shared[0].begin  # From there on the other model's parts are counted.
                for piece in self._model_pieces(name):
                    if begin + piece.begin < end:
                        yield _Piece(name, piece.part, begin + piece.begin, min(begin + piece.end, end), piece.by)
            elif end > begin:
                yield _Piece(name, section.kind, begin, end, _READ_IN.get(section.kind, ()))
            at = max(at, end)
        if size > at:
            yield _Piece("file", _PADDING, at, size, ("weights",))

    def _model_pieces(self, model: str) -> Iterator[_Piece]:
        found, run = self.constants[model], _RUN_IN[model]
        compared = self._compared.get(model, [])
        marked: list[tuple[Range, str, tuple[str, ...]]] = [
            (place, _WEIGHTS, ("weights",)) for place in _places(compared)
        ]
        marked += [(place, _PARAMETERS, ("weights",)) for place in _parameters(compared)]
        known = _places(compared) | _parameters(compared)
        rest = [constant for constant in found.constants if constant.place not in known]
        for constant in rest:
            inside = constant.place[1] <= found.flatbuffer_end
            marked.append((constant.place, _SMALL if inside else _UNMATCHED, run if inside else ()))
        at = 0
        for (begin, end), part, by in sorted(marked):
            yield from self._between(model, at, min(begin, end))
            if end > max(at, begin):
                yield _Piece(model, part, max(at, begin), end, by)
            at = max(at, end)
        yield from self._between(model, at, found.size)

    def _between(self, model: str, begin: int, end: int) -> Iterator[_Piece]:
        """What is no constant: graphs up to the flatbuffer's end, padding behind it."""
        border = min(max(begin, self.constants[model].flatbuffer_end), max(begin, end))
        if border > begin:
            yield _Piece(model, _GRAPH, begin, border, _RUN_IN[model])
        if end > border:
            yield _Piece(model, _PADDING, border, end, ("weights",))


def read_layout(bundle: BundleFile) -> Layout:
    """The layout of `bundle`; its constants are found, not read.

    Raises:
        UserError: a model cannot be read.
    """
    sections = {name: section for name, section in bundle.model_sections().items() if name in _RUN_IN}
    constants = {
        name: read_constants(bundle.content(section), f"{bundle.path} ({name})") for name, section in sections.items()
    }
    for name, section in sections.items():
        if bundle.shared(section):  # The first constant behind its own flatbuffer lies behind the other model's, too.
            end = len(pack(parse(bundle.content(section))))
            constants[name] = replace(constants[name], flatbuffer_end=end)
    with bundle.path.open("rb") as file:
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    return Layout(content, bundle, constants)


def _places(constants: Iterable[Constant]) -> set[Range]:
    return {constant.place for constant in constants}


def _parameters(constants: Iterable[Constant]) -> set[Range]:
    return {place for constant in constants for place in constant.parameters}


def _first_set(content: memoryview) -> int | None:
    """Place of the first byte that is not zero."""
    for start in range(0, len(content), _SCAN_BYTES):
        places = np.flatnonzero(np.frombuffer(content[start : start + _SCAN_BYTES], np.uint8))
        if len(places):
            return start + int(places[0])
    return None
