"""Faults planted into what a bundle holds beside its models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from litert_lm_builder import litertlm_builder

from gemma_mtp.runtime.bundle.container import BundleFile
from gemma_mtp.runtime.bundle.names import PREFILL_DECODE


def with_metadata(sound: Path, change: Callable[[Any], None], folder: Path) -> Path:
    """A copy of the bundle `sound` whose `LlmMetadata` are changed in place, to the same length."""
    bundle = Path(shutil.copyfile(sound, folder / "model.litertlm"))
    opened = BundleFile(bundle)
    section = next(section for section in opened.sections if section.kind == "LlmMetadataProto")
    change(opened.llm_metadata)
    content = opened.llm_metadata.SerializeToString(deterministic=True)
    assert len(content) == section.size
    with bundle.open("r+b") as file:
        file.seek(section.begin)
        file.write(content)
    return bundle


@dataclass(frozen=True)
class Planted:
    """A fault in what surrounds the models: what is changed, each in place; `items` are added to the target's section.

    `without` are kinds of sections to leave out; `corrupt` one whose first bytes are overwritten.
    """

    llm: Callable[[Any], None] | None = None
    executor: Callable[[Any], None] | None = None
    tokenizer: Callable[[dict[str, Any]], None] | None = None
    items: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    corrupt: str = ""


def planted_metadata(sound: Path, fault: Planted, folder: Path) -> Path:
    """A bundle like that in the export's folder `sound`, packed again with `fault`."""
    opened = BundleFile(sound / "model.litertlm")
    builder = litertlm_builder.LitertLmFileBuilder()
    notes = dict(opened.system_metadata) | fault.notes
    for key, value in notes.items():
        if key not in ("uuid", "creation_timestamp"):  # The builder writes its own.
            builder.add_system_metadata(_text_item(key, value))
    _add_messages(builder, opened, fault, folder)
    if "HF_Tokenizer_Zlib" not in fault.without:
        found = opened.tokenizer()
        assert found is not None
        content = json.loads(found[1])
        (fault.tokenizer or (lambda _: None))(content)
        # A sound one keeps its bytes.
        written = json.dumps(content).encode() if fault.tokenizer else found[1]
        (folder / "tokenizer.json").write_bytes(written)
        builder.add_hf_tokenizer(str(folder / "tokenizer.json"))
    for name, section in opened.model_sections().items():
        items = {key: value for key, value in section.items.items() if key != "model_type"}
        items |= fault.items if name == PREFILL_DECODE else {}
        builder.add_tflite_model(
            str(sound / f"{name}.tflite"),
            litertlm_builder.TfLiteModelType[name.upper()],
            additional_metadata=[_text_item(key, value) for key, value in items.items()],
        )
    bundle = folder / "model.litertlm"
    with bundle.open("w+b") as file:
        builder.build(file)
    if fault.corrupt:
        _overwrite(bundle, fault.corrupt)
    return bundle


def _add_messages(builder: Any, opened: BundleFile, fault: Planted, folder: Path) -> None:
    for kind, message, change, add in (
        ("LlmMetadataProto", opened.llm_metadata, fault.llm, builder.add_llm_metadata),
        ("ExecutorMetadataProto", opened.executor_metadata, fault.executor, builder.add_executor_metadata),
    ):
        if kind not in fault.without:
            (change or (lambda _: None))(message)
            (folder / f"{kind}.pb").write_bytes(message.SerializeToString(deterministic=True))
            add(str(folder / f"{kind}.pb"))


def _overwrite(bundle: Path, kind: str) -> None:
    """Bytes behind the first eight (a compressed tokenizer's begin with its size) that no reader of `kind` takes."""
    begin = next(section.begin for section in BundleFile(bundle).sections if section.kind == kind)
    with bundle.open("r+b") as file:
        file.seek(begin + (8 if kind == "HF_Tokenizer_Zlib" else 0))
        file.write(b"\xff" * 16)


def _text_item(key: str, value: str) -> Any:
    return litertlm_builder.Metadata(key=key, value=value, dtype=litertlm_builder.DType.STRING)
