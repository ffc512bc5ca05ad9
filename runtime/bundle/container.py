"""Read a .litertlm container: its sections, memory-mapped, and its metadata. Works on bundles from any source.

What is read into memory is bounded, whatever the file says of itself.
"""

from __future__ import annotations

import mmap
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from litert_lm_builder import litertlm_core
from litert_lm_builder import litertlm_header_schema_py_generated as header_schema

from ..errors import BundleError, UserError
from .names import EMBEDDER, PREFILL_DECODE, SMALLEST_CONTEXT_NOTE
from .protos import ExecutorMetadata, LlmMetadata

MODEL_SECTION = "TFLiteModel"
# Gemma 4's tokenizer.json takes 32 MB, its LlmMetadata 20 KB.
TOKENIZER_BYTES = 256 << 20
METADATA_BYTES = 16 << 20
SECTIONS = 256
ITEMS = 64
_WEIGHTS_SECTION = "TFLiteWeights"
_VALUE_CLASSES = {value: name for name, value in vars(header_schema.VData).items() if isinstance(value, int)}


@dataclass(frozen=True)
class Section:
    """One section: its type (`LlmMetadataProto`, `TFLiteModel`, ...), its items, and its place in the file."""

    kind: str
    items: dict[str, Any]
    begin: int
    end: int

    @property
    def size(self) -> int:
        """Bytes of content."""
        return self.end - self.begin

    @property
    def name(self) -> str:
        """Its model type, or else its type."""
        return self.model_type or self.kind

    @property
    def model_type(self) -> str | None:
        """`prefill_decode`, `embedder`, `mtp_drafter`, ...; None for sections that hold no model."""
        value = self.items.get("model_type")
        return value.removeprefix("tf_lite_") if isinstance(value, str) else None


class BundleFile:
    """A .litertlm file opened for reading.

    Attributes:
        version: container version, such as "1.7.0".
        system_metadata: items of the whole file.
        sections: in file order.
    """

    def __init__(self, path: Path) -> None:
        """Map the file and read its header.

        Raises:
            UserError: no such file, no .litertlm file, or one that is truncated or whose header cannot be true.
        """
        self.path = path
        if not path.is_file():
            raise UserError(f"{path}: no such file; expected a .litertlm bundle")
        with path.open("rb") as file:
            if file.read(8) != litertlm_core.HEADER_MAGIC_BYTES:
                raise UserError(f"{path}: does not begin with LITERTLM; expected a .litertlm bundle")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            numbers = [int.from_bytes(self._map[at : at + 4], "little") for at in (8, 12, 16)]
            self.version = ".".join(map(str, numbers))
            begin, end_at = litertlm_core.HEADER_BEGIN_BYTE_OFFSET, litertlm_core.HEADER_END_LOCATION_BYTE_OFFSET
            end = int.from_bytes(self._map[end_at : end_at + 8], "little")
            if not begin < end <= litertlm_core.BLOCK_SIZE:
                raise ValueError(f"it ends at byte {end:,}, expected at most {litertlm_core.BLOCK_SIZE:,}")
            header: Any = header_schema.LiteRTLMMetaData.GetRootAs(self._map[begin:end], 0)
            system, entries = header.SystemMetadata(), header.SectionMetadata()
            self.system_metadata = _items(system.Entries, system.EntriesLength()) if system else {}
            count = _at_most(SECTIONS, "sections", entries.ObjectsLength())
            self.sections = [_section(entries.Objects(index)) for index in range(count)]
        except Exception as error:  # The flatbuffer reader fails in many ways on bytes that are no header.
            raise BundleError(
                f"{path}: the header cannot be read ({error}); the file is truncated or corrupt"
            ) from error
        self._check_sections(end)

    def _check_sections(self, header_end: int) -> None:
        size = len(self._map)
        for section in self.sections:
            if not section.begin <= section.end <= size:
                raise BundleError(
                    f"{self.path}: section {section.name} ends at byte {section.end:,},"
                    f" but the file has {size:,}; it is truncated"
                )
            if section.begin < header_end:
                raise BundleError(
                    f"{self.path}: section {section.name} begins at byte {section.begin:,}, within the header; the file"
                    " is corrupt"
                )
        in_place = sorted(self.sections, key=lambda section: (section.begin, section.end))
        for before, after in pairwise(in_place):
            if after.begin < before.end and not _may_share(before, after):
                raise BundleError(
                    f"{self.path}: sections {before.name} and {after.name} overlap at byte {after.begin:,}; the file is"
                    " corrupt"
                )
        for name, found in Counter((section.kind, section.model_type) for section in self.sections).items():
            if found > 1:
                raise BundleError(
                    f"{self.path}: {found} sections {' '.join(filter(None, name))}; expected one of a type, as nothing"
                    " says which is meant"
                )

    def content(self, section: Section) -> memoryview:
        """The bytes of `section`, not copied."""
        return memoryview(self._map)[section.begin : section.end]

    def copy(self, section: Section) -> bytes:
        """The bytes of `section`, copied; the pages that were mapped for it are given back."""
        content = bytes(self.content(section))
        begin = section.begin - section.begin % mmap.PAGESIZE
        if hasattr(self._map, "madvise"):
            self._map.madvise(mmap.MADV_DONTNEED, begin, section.end - begin)
        return content

    def model_sections(self) -> dict[str, Section]:
        """Model sections by model type."""
        return {section.model_type or "?": section for section in self.sections if section.kind == MODEL_SECTION}

    def shared(self, section: Section) -> tuple[Section, int] | None:
        """The later section that holds the end of `section` as well, and how many bytes; None if none does."""
        for other in self.sections:
            if section.begin < other.begin < section.end:
                return other, section.end - other.begin
        return None

    @property
    def smallest_context(self) -> int:
        """The shortest context that can be chosen at load, in tokens, as far as the bundle says one."""
        said = str(self.system_metadata.get(SMALLEST_CONTEXT_NOTE, ""))
        return int(said) if said.isdigit() else 1

    @cached_property
    def llm_metadata(self) -> Any:
        """The parsed `LlmMetadata`; None if the bundle has none.

        Raises:
            UserError: it cannot be parsed.
        """
        return self._proto("LlmMetadataProto", LlmMetadata())

    @cached_property
    def executor_metadata(self) -> Any:
        """The parsed `ExecutorMetadata`; None if the bundle has none; errors as of `llm_metadata`."""
        return self._proto("ExecutorMetadataProto", ExecutorMetadata())

    def tokenizer(self) -> tuple[str, bytes] | None:
        """`("json" or "model", content)` of the Hugging Face or SentencePiece tokenizer; None if there is none.

        Raises:
            UserError: it is too large, or no zlib stream of the size that it states.
        """
        for section in self.sections:
            if section.kind == "HF_Tokenizer_Zlib":
                return "json", self._decompressed(section)
            if section.kind == "SP_Tokenizer":
                return "model", bytes(self._bounded(section, TOKENIZER_BYTES))
        return None

    def _decompressed(self, section: Section) -> bytes:
        """Behind its size in eight bytes, the stream; no more is decompressed than that size."""
        content = self._bounded(section, TOKENIZER_BYTES)
        size = int.from_bytes(content[:8], "little")
        if size > TOKENIZER_BYTES:
            raise BundleError(
                f"{self.path}: the tokenizer states {size:,} bytes, expected at most {TOKENIZER_BYTES:,}; the file is"
                " corrupt"
            )
        stream = zlib.decompressobj()
        try:
            # One byte more would be one too many; 0 would be no limit.
            found = stream.decompress(content[8:], size + 1)
        except zlib.error as error:
            raise BundleError(f"{self.path}: the tokenizer cannot be decompressed ({error})") from error
        if len(found) != size or not stream.eof:
            raise BundleError(f"{self.path}: the tokenizer does not decompress to the {size:,} bytes that it states")
        return found

    def _bounded(self, section: Section, limit: int) -> memoryview:
        if section.size > limit:
            raise BundleError(
                f"{self.path}: section {section.name} has {section.size:,} bytes, expected at most {limit:,}"
            )
        return self.content(section)

    def _proto(self, kind: str, message: Any) -> Any:
        for section in self.sections:
            if section.kind == kind:
                try:
                    message.ParseFromString(bytes(self._bounded(section, METADATA_BYTES)))
                except DecodeError as error:
                    raise BundleError(f"{self.path}: section {kind} cannot be read ({error}); it is corrupt") from error
                return message
        return None


def _may_share(before: Section, after: Section) -> bool:
    """Whether both may hold the bytes that they have in common: weights of several models, or a table that the embedder
    finds in the target's section, which begins behind its own graph and goes on behind the table."""
    if before.model_type == EMBEDDER and after.model_type == PREFILL_DECODE:
        return before.kind == after.kind == MODEL_SECTION and before.begin < after.begin and before.end <= after.end
    return before.kind == after.kind == _WEIGHTS_SECTION


def _section(entry: Any) -> Section:
    items = _items(entry.Items, entry.ItemsLength())
    return Section(_kind(entry.DataType()), items, entry.BeginOffset(), entry.EndOffset())


def _kind(data_type: int) -> str:
    try:
        return litertlm_core.any_section_data_type_to_string(data_type)
    except ValueError:
        return f"unknown type {data_type}"


def _items(entry: Callable[[int], Any], count: int) -> dict[str, Any]:
    """Key-value pairs; the value's class is named by the union's type (`StringValue`, `UInt64`, ...)."""
    found: dict[str, Any] = {}
    for pair in map(entry, range(_at_most(ITEMS, "items", count))):
        table = pair.Value()
        value = getattr(header_schema, _VALUE_CLASSES[pair.ValueType()])()
        value.Init(table.Bytes, table.Pos)
        content = value.Value()
        found[pair.Key().decode()] = content.decode() if isinstance(content, bytes) else content
    return found


def _at_most(limit: int, what: str, count: int) -> int:
    if count > limit:
        raise ValueError(f"{count:,} {what}, expected at most {limit}")
    return count
