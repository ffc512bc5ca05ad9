"""A bundle is made of the checkpoints as they were opened, and the manifest has the hashes of what was read."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console
from safetensors import safe_open

from gemma_mtp.export.checkpoint import files
from gemma_mtp.export.checkpoint.adapted import AdaptedCheckpoint
from gemma_mtp.export.checkpoint.files import Checkpoint
from gemma_mtp.export.checkpoint.hub import PinnedFiles
from gemma_mtp.export.checkpoint.pair import open_pair
from gemma_mtp.export.options import resolve_options
from gemma_mtp.export.pipeline import export
from gemma_mtp.export.progress import Advance, Reporter
from gemma_mtp.runtime.errors import UserError
from tests.conftest import CONTEXT, DRAFTER, PREFILL, TARGET, Exports
from tests.interruption.running import export_arguments

ADAPTER = Path(__file__).parents[1] / "small_pair" / "chat_adapter"
NORM = "norm.weight"


def replace(path: Path) -> None:
    """As save_pretrained of another checkpoint would: same size, another content, another file."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink()
    path.write_bytes(content)


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


CHANGES = [replace, overwrite, truncate, Path.unlink]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TARGET, tmp_path / "target"))


@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_change_are_not_read(change: Callable[[Path], None], folder: Path) -> None:
    checkpoint = Checkpoint(str(folder))
    checkpoint.read(NORM)
    change(folder / "model.safetensors")
    for use in (lambda: checkpoint.read(NORM), lambda: checkpoint.hashes, checkpoint.check_unchanged):
        with pytest.raises(UserError, match=r"target/model.safetensors: was (changed|removed)( or removed)? after"):
            use()


@pytest.mark.parametrize("name", sorted(path.name for path in TARGET.iterdir()))
def test_change_of_any_file_is_noticed(name: str, folder: Path) -> None:
    checkpoint = Checkpoint(str(folder))
    checkpoint.check_unchanged()
    replace(folder / name)
    with pytest.raises(UserError, match=f"{name}: was changed after this run began"):
        checkpoint.check_unchanged()


def test_file_that_appears_is_noticed(folder: Path) -> None:
    checkpoint = Checkpoint(str(folder))
    (folder / "notes.txt").touch()
    checkpoint.check_unchanged()
    (folder / "tokenizer.model").touch()
    with pytest.raises(UserError, match=r"tokenizer.model: was added after this run began"):
        checkpoint.check_unchanged()


def test_shards_in_folders_of_their_own_are_pinned(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "model.safetensors").rename(folder / "deep" / "a.safetensors")
    with safe_open(folder / "deep" / "a.safetensors", framework="pt") as file:
        index = {"weight_map": dict.fromkeys(file.keys(), "deep/a.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    checkpoint = Checkpoint(str(folder))
    checkpoint.check_unchanged()
    overwrite(folder / "deep" / "a.safetensors")
    with pytest.raises(UserError, match=r"deep/a.safetensors: was changed"):
        checkpoint.check_unchanged()


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_change_of_an_adapter_is_noticed(name: str, tmp_path: Path) -> None:
    adapter = Path(shutil.copytree(ADAPTER, tmp_path / "adapter"))
    checkpoint = AdaptedCheckpoint(str(TARGET), [str(adapter)])
    checkpoint.check_unchanged()
    overwrite(adapter / name)
    for use in (lambda: checkpoint.adapter_hashes, checkpoint.check_unchanged):
        with pytest.raises(UserError, match=f"adapter/{name}: was changed"):
            use()


class _At(Reporter):
    """Calls `act` when the stage `title` begins."""

    def __init__(self, title: str, act: Callable[[], None]) -> None:
        super().__init__(Console(stderr=True), quiet=True)
        self._title, self._act = title, act

    @contextlib.contextmanager
    def stage(self, title: str, total: float, *, lines: bool = False, in_bytes: bool = False) -> Iterator[Advance]:
        if title == self._title:
            self._act()
        with super().stage(title, total, lines=lines, in_bytes=in_bytes) as advance:
            yield advance


@pytest.mark.parametrize("title", ["Tracing graphs", "Writing embedder", "Writing mtp_drafter", "Hashing the bundle"])
def test_weights_replaced_while_an_export_runs(
    title: str, small_fp32: Path, exports: Exports, folder: Path, tmp_path: Path
) -> None:
    pair = open_pair(str(folder), str(DRAFTER))
    options = resolve_options(pair.target_config, context_length=CONTEXT, prefill_lengths=PREFILL)
    reporter = _At(title, lambda: replace(folder / "model.safetensors"))
    with pytest.raises(UserError, match=r"target/model.safetensors: was changed"):
        export(pair, options, tmp_path / "out", reporter, skeleton_cache=exports.skeletons)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


@pytest.mark.parametrize("read", [1, 20])
def test_read_error_of_a_disk_is_one_line(
    read: int, run, small_fp32: Path, exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fails at one of the tensors; what the kernel says of it is said, and nothing is left."""
    sound, count = files._read_rows, itertools.count()

    def broken(entry, rows):
        if next(count) == read:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return sound(entry, rows)

    monkeypatch.setattr(files, "_read_rows", broken)
    code, output, error = run(*export_arguments(tmp_path / "out", exports.skeletons), "-q")
    assert (code, output) == (2, "")
    assert re.fullmatch(r"Error: .*/model\.safetensors: \S+ cannot be read \(Input/output error\)\n", error)
    assert list(tmp_path.iterdir()) == []


def test_file_that_ends_early_is_a_read_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint(str(folder))
    truncate(folder / "model.safetensors")
    monkeypatch.setattr(PinnedFiles, "check_file", lambda self, path: None)  # As if it were cut short right then.
    with pytest.raises(UserError, match=r"cannot be read \(the file ends before it\)"):
        _ = [checkpoint.read(name) for name in (NORM, "embed_tokens.weight")]


def test_manifest_has_the_hash_of_every_file_that_was_read(small_fp32: Path) -> None:
    sources = json.loads((small_fp32 / "manifest.json").read_text())["sources"]
    target = {**sources["target"]["sha256"], **sources["target"]["text_sha256"]}
    assert target == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in TARGET.iterdir()}
    assert sources["drafter"]["sha256"].keys() == {"config.json", "model.safetensors"}
