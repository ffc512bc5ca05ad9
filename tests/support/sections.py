"""Replace a section of a finished .litertlm file. For planting faults where they ship."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from litert_lm_builder import litertlm_core
from litert_lm_builder import litertlm_header_schema_py_generated as header_schema

from gemma_mtp.runtime.bundle.container import BundleFile, Section

_BEGIN_FIELD, _END_FIELD = 6, 8  # Of the header's `SectionObject`, in its flatbuffer's table.
_HEADER = litertlm_core.HEADER_BEGIN_BYTE_OFFSET


def section_content(bundle: Path, model_type: str) -> bytes:
    """The .tflite model of a type in `bundle`."""
    opened = BundleFile(bundle)
    return bytes(opened.content(opened.model_sections()[model_type]))


def replace_model(bundle: Path, model_type: str, content: bytes) -> None:
    """Put `content` in place of the .tflite model of a type."""
    replace_section(bundle, BundleFile(bundle).model_sections()[model_type], content)


def replace_section(bundle: Path, section: Section, content: bytes) -> None:
    """Put `content` in place of `section`; then all sections lie one behind the other, and share nothing.

    A new file takes the old one's place: other links to the old one keep its content.
    """
    opened = BundleFile(bundle)
    after = bytearray(bundle.read_bytes()[: opened.sections[0].begin])
    places = []
    for each in opened.sections:
        part = content if each == section else opened.content(each)
        after += bytes(-len(after) % litertlm_core.BLOCK_SIZE)
        places.append((len(after), len(after) + len(part)))
        after += part
    set_places(after, places)
    bundle.unlink()
    bundle.write_bytes(after)


def set_places(content: bytearray, places: list[tuple[int, int]]) -> None:
    """Write where sections begin and end into the header of the bundle `content`."""
    header: Any = header_schema.LiteRTLMMetaData.GetRootAs(bytes(content[_HEADER : places[0][0]]), 0)
    for index, place in enumerate(places):
        table = header.SectionMetadata().Objects(index)._tab
        for field, value in zip((_BEGIN_FIELD, _END_FIELD), place, strict=True):
            start = _HEADER + table.Pos + table.Offset(field)
            content[start : start + 8] = value.to_bytes(8, "little")
