"""Models, tokenizer and metadata to `model.litertlm`, byte for byte the same for the same contents."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from google.protobuf.message import Message
from litert_lm_builder import litertlm_builder

from ...runtime.bundle.container import BundleFile
from ...runtime.bundle.names import EMBEDDER, MTP_DRAFTER, PER_LAYER_EMBEDDER, PREFILL_DECODE
from ...runtime.gpu.check import GPU_MODELS

_Type = litertlm_builder.TfLiteModelType
# File name of each model beside the bundle, and its section's model_type: the runtime looks for exactly these.
MODELS = {
    PREFILL_DECODE: _Type.PREFILL_DECODE,
    EMBEDDER: _Type.EMBEDDER,
    PER_LAYER_EMBEDDER: _Type.PER_LAYER_EMBEDDER,
    MTP_DRAFTER: _Type.MTP_DRAFTER,
}


@dataclass(frozen=True)
class BundleParts:
    """What a bundle is made of; `models` maps each name of MODELS to its .tflite file.

    Of the models that may run on a GPU, `activations` is LiteRT-LM's `prefer_activation_type`, `backends` its
    `backend_constraint`; None leaves the choice to the runtime. `notes` stand in the file's own metadata, for people.
    """

    models: dict[str, Path]
    tokenizer: Path
    llm_metadata: Message
    executor_metadata: Message
    activations: str | None = None
    backends: str | None = None
    notes: Mapping[str, str] = field(default_factory=dict)


def write_bundle(parts: BundleParts, path: Path) -> None:
    """Write `path`, a .litertlm file, with LiteRT-LM's own builder."""
    builder = litertlm_builder.LitertLmFileBuilder()
    builder.add_system_metadata(
        litertlm_builder.Metadata(key="Authors", value="gemma-mtp-export", dtype=litertlm_builder.DType.STRING)
    )
    for key, value in parts.notes.items():
        builder.add_system_metadata(
            litertlm_builder.Metadata(key=key, value=value, dtype=litertlm_builder.DType.STRING)
        )
    with tempfile.TemporaryDirectory(prefix=".metadata-", dir=path.parent) as folder:
        llm, executor = Path(folder, "llm.pb"), Path(folder, "executor.pb")
        llm.write_bytes(parts.llm_metadata.SerializeToString(deterministic=True))
        executor.write_bytes(parts.executor_metadata.SerializeToString(deterministic=True))
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
                    str(parts.models[name]), model_type, backend_constraint=backends, prefer_activation_type=activations
                )
        with path.open("w+b") as file:
            builder.build(file)
    _fix_identity(path)


def _fix_identity(path: Path) -> None:
    """Replace the builder's random UUID and its clock's time by ones that follow from the contents.

    The time is SOURCE_DATE_EPOCH where that is set (reproducible-builds.org), else the epoch itself. Both are written
    over the old ones in place: the new strings have the same length.
    """
    bundle = BundleFile(path)
    data_start = min(section.begin for section in bundle.sections)
    moment = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), UTC)
    with path.open("r+b") as file:
        header = file.read(data_start)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        fixed = {
            "uuid": str(uuid.uuid5(uuid.NAMESPACE_OID, digest)),
            "creation_timestamp": moment.isoformat(timespec="microseconds"),
        }
        for key, value in fixed.items():
            old = bundle.system_metadata[key]
            if len(old) != len(value):
                raise ValueError(f"litert-lm-builder wrote {key} as {old!r}, expected {len(value)} characters")
            header = header.replace(old.encode(), value.encode())
        file.seek(0)
        file.write(header)
