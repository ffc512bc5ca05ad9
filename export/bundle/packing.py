"""Models, tokenizer and metadata to `model.litertlm`, byte for byte the same for the same contents.

LiteRT-LM's own builder copies whole files. Here it makes the container of empty models; then each model's bytes are
written to where they belong, once, and the header says where that is. It goes last: an unfinished file is no bundle.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from litert_lm_builder import litertlm_builder, litertlm_core
from litert_lm_builder import litertlm_header_schema_py_generated as header_schema

from ...runtime.bundle.container import MODEL_SECTION, BundleFile
from ...runtime.bundle.names import EMBEDDER, MTP_DRAFTER, PER_LAYER_EMBEDDER, PREFILL_DECODE
from ...runtime.gpu.check import GPU_MODELS

_Type = litertlm_builder.TfLiteModelType
# Name of each model and its section's model_type, which the runtime looks for, in the order of the sections. The
# embedders' sizes are known long before that of the target, whose graphs take longest to trace; a table that the
# embedder shares with the target lies behind both flatbuffers.
MODELS = {
    PER_LAYER_EMBEDDER: _Type.PER_LAYER_EMBEDDER,
    EMBEDDER: _Type.EMBEDDER,
    PREFILL_DECODE: _Type.PREFILL_DECODE,
    MTP_DRAFTER: _Type.MTP_DRAFTER,
}
# Of the header's `SectionObject`, in its flatbuffer's table.
_BEGIN_FIELD, _END_FIELD = 6, 8
_COPIED_BYTES = 1 << 20


@dataclass(frozen=True)
class BundleParts:
    """What a bundle is made of beside its models.

    Of the models that may run on a GPU, `activations` is LiteRT-LM's `prefer_activation_type`, `backends` its
    `backend_constraint`; None leaves the choice to the runtime. `notes` stand in the file's own metadata, for people.
    """

    tokenizer: Path
    llm_metadata: Message
    executor_metadata: Message
    activations: str | None = None
    backends: str | None = None
    notes: Mapping[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def bundle_writer(parts: BundleParts, path: Path) -> Iterator[BundleWriter]:
    """Writes the new file `path`, a .litertlm file, whose header is there when the block has ended well."""
    with tempfile.TemporaryDirectory(prefix=".metadata-", dir=path.parent) as folder:
        empty = _build_empty(parts, Path(folder))
        with path.open("w+b") as file:
            writer = BundleWriter(file, empty)
            yield writer
            writer.finish()


class BundleWriter:
    """A bundle whose models are put piece by piece, one model after the other in the order of MODELS."""

    def __init__(self, file: Any, empty: Path) -> None:
        """Write into `file` all but header and models of the bundle `empty`."""
        bundle = BundleFile(empty)
        models = [section for section in bundle.sections if section.kind == MODEL_SECTION]
        others = bundle.sections[: -len(models)]
        self._file, self._digest = file, hashlib.sha256()
        self._notes = bundle.system_metadata
        self._places = [(section.begin, section.end) for section in others]
        self._free = others[-1].end
        content = empty.read_bytes()
        begin = min(begin for begin, _ in self._places)
        self._header = content[:begin]
        self._put(0, begin, content[begin : others[-1].end])
        self._waiting = list(MODELS)

    def place(self, name: str, size: int, own: int | None = None) -> Callable[[int, Any], None]:
        """Take the next `size` bytes for the model `name`; what puts bytes at a place within them.

        The next model begins behind them, or behind the first `own` of them: then it holds the others as well.

        Raises:
            OSError: there is no room for them.
        """
        if self._waiting.pop(0) != name:
            raise ValueError(f"{name} is not the next of {', '.join(MODELS)}")
        begin = in_blocks(self._free)
        self._file.flush()
        _reserve(self._file.fileno(), begin, size)
        self._file.truncate(begin + size)
        self._places.append((begin, begin + size))
        self._free = begin + (size if own is None else own)
        return partial(self._put, begin)

    def finish(self) -> None:
        """Write the header: places, and an identity that follows from the contents instead of the builder's random one.

        The time is SOURCE_DATE_EPOCH where that is set (reproducible-builds.org), else the epoch itself. Both are
        written over the old ones: the new strings have the same length.
        """
        header = _with_places(self._header, self._places)
        moment = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), UTC)
        fixed = {
            "uuid": str(uuid.uuid5(uuid.NAMESPACE_OID, self._digest.hexdigest())),
            "creation_timestamp": moment.isoformat(timespec="microseconds"),
        }
        for key, value in fixed.items():
            old = self._notes[key]
            if len(old) != len(value):
                raise ValueError(f"litert-lm-builder wrote {key} as {old!r}, expected {len(value)} characters")
            header = header.replace(old.encode(), value.encode())
        self._file.seek(0)
        self._file.write(header)
        self._file.flush()

    def _put(self, begin: int, at: int, content: Any) -> None:
        self._digest.update(content)
        self._file.seek(begin + at)
        self._file.write(content)


def in_blocks(size: int) -> int:
    """Bytes of the blocks that `size` bytes fill: sections begin with a block."""
    return size + -size % litertlm_core.BLOCK_SIZE


def copy_section(bundle: BundleFile, name: str, path: Path) -> tuple[int, str]:
    """Write the model `name` of `bundle` to the new file `path`; its bytes and SHA-256."""
    section, digest = bundle.model_sections()[name], hashlib.sha256()
    with bundle.path.open("rb") as source, path.open("xb") as file:
        source.seek(section.begin)
        for start in range(0, section.size, _COPIED_BYTES):
            part = source.read(min(_COPIED_BYTES, section.size - start))
            digest.update(part)
            file.write(part)
    return section.size, digest.hexdigest()


def _reserve(file: int, begin: int, size: int) -> None:
    """Let a disk that is too full say so before gigabytes are read.

    Raises:
        OSError: there is no room.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file, begin, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # Which some file systems give instead.
                raise


def _build_empty(parts: BundleParts, folder: Path) -> Path:
    """The bundle of `parts` with models of no bytes, by LiteRT-LM's own builder."""
    builder = litertlm_builder.LitertLmFileBuilder()
    builder.add_system_metadata(
        litertlm_builder.Metadata(key="Authors", value="gemma-mtp-export", dtype=litertlm_builder.DType.STRING)
    )
    for key, value in parts.notes.items():
        builder.add_system_metadata(
            litertlm_builder.Metadata(key=key, value=value, dtype=litertlm_builder.DType.STRING)
        )
    llm, executor, model = (folder / name for name in ("llm.pb", "executor.pb", "model.tflite"))
    llm.write_bytes(parts.llm_metadata.SerializeToString(deterministic=True))
    executor.write_bytes(parts.executor_metadata.SerializeToString(deterministic=True))
    model.touch()
    builder.add_llm_metadata(str(llm))
    builder.add_executor_metadata(str(executor))
    if parts.tokenizer.suffix == ".model":
        builder.add_sentencepiece_tokenizer(str(parts.tokenizer))
    else:
        builder.add_hf_tokenizer(str(parts.tokenizer))
    for name, model_type in MODELS.items():
        backends, activations = (parts.backends, parts.activations) if name in GPU_MODELS else (None, None)
        with contextlib.redirect_stdout(None):  # The builder prints what it is told.
            builder.add_tflite_model(
                str(model), model_type, backend_constraint=backends, prefer_activation_type=activations
            )
    built = folder / "empty.litertlm"
    with built.open("w+b") as file:
        builder.build(file)
        # It leaves out the padding before an empty section.
        file.truncate(file.seek(0, os.SEEK_END) + litertlm_core.BLOCK_SIZE)
    return built


def _with_places(header: bytes, places: list[tuple[int, int]]) -> bytes:
    """The header with its sections' first bytes and ends."""
    start = litertlm_core.HEADER_BEGIN_BYTE_OFFSET
    metadata: Any = header_schema.LiteRTLMMetaData.GetRootAs(header[start:], 0)
    changed = bytearray(header)
    for index, place in enumerate(places):
        table = metadata.SectionMetadata().Objects(index)._tab
        for number, value in zip((_BEGIN_FIELD, _END_FIELD), place, strict=True):
            at = start + table.Pos + table.Offset(number)
            changed[at : at + 8] = value.to_bytes(8, "little")
    return bytes(changed)
