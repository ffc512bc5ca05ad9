"""Faults planted into a bundle's metadata."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gemma_mtp.runtime.bundle.container import BundleFile


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
