"""The shipped pair and an adapter in folders that a test may spoil; weights are linked, not copied."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gemma_mtp.export.checkpoint.adapter import Adapter
from gemma_mtp.export.checkpoint.pair import open_pair
from gemma_mtp.export.text.files import read_text_files
from tests.conftest import DRAFTER, TARGET

ADAPTER = Path(__file__).parents[1] / "small_pair" / "chat_adapter"


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """`target`, `drafter` and `adapter`."""
    found = {}
    for name, source in (("target", TARGET), ("drafter", DRAFTER), ("adapter", ADAPTER)):
        found[name] = tmp_path / name
        found[name].mkdir()
        for file in source.iterdir():
            if file.suffix == ".safetensors":
                (found[name] / file.name).symlink_to(file)
            elif file.suffix in (".json", ".jinja"):
                shutil.copyfile(file, found[name] / file.name)
    return found


def read_all(folders: dict[str, Path], role: str) -> None:
    """Everything that an export reads of the pair before it traces, or of the adapter."""
    if role == "adapter":
        Adapter(str(folders["adapter"]))
        return
    pair = open_pair(str(folders["target"]), str(folders["drafter"]))
    read_text_files(pair.target, pair.target_config)
