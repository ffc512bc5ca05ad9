"""Where a checkpoint is (a folder, or a repository of the Hugging Face hub, downloaded), and that it stays as it is."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from ...runtime.errors import UserError
from .forms import gguf_advice

# What a bundle needs of a hub repository; no weights but safetensors, no Python.
_HUB_PATTERNS = ["*.safetensors", "*.safetensors.index.json", "config.json", "adapter_config.json", "tokenizer*"]
_HUB_PATTERNS += ["chat_template*", "special_tokens_map.json", "generation_config.json"]
_PINNED_PATTERNS = [*_HUB_PATTERNS, "additional_chat_templates/*.jinja"]
_PART_BYTES = 1 << 20
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def resolve(source: str) -> Path:
    """Folder of a checkpoint: `source` itself if it is one, else the hub repository of that name, downloaded.

    Raises:
        UserError: neither a folder nor a repository that can be had.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        advice = gguf_advice(folder.name) if folder.suffix.lower() == ".gguf" else f"give its folder, {folder.parent}"
        raise UserError(f"{source}: is a file, expected a checkpoint's folder; {advice}")
    if folder.exists() or source.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(source):
        raise UserError(
            f"{source}: no such folder; expected a checkpoint folder or a hub id such as google/gemma-4-E2B-it"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=_HUB_PATTERNS))
    except Exception as error:  # Gated, missing, offline, interrupted: the hub client has an error class for each.
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{source}: no such folder, and the hub says: {reason[0]}") from error


def sha256_of(path: Path, on_bytes: Callable[[int], None] = lambda count: None) -> str:
    """Hexadecimal SHA-256 of a file; `on_bytes` is told of some of its bytes at a time, and may raise."""
    digest, part = hashlib.sha256(), memoryview(bytearray(_PART_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(part):
            digest.update(part[:count])
            on_bytes(count)
    return digest.hexdigest()


class _State(NamedTuple):
    """What changes with a file's content, or when another file takes its name."""

    device: int
    inode: int
    size: int
    modified_ns: int


class PinnedFiles:
    """The files of a folder that an export may read, as they were when this object was made.

    A folder that somebody saves into meanwhile would give a bundle of two models, and hashes of the wrong one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._further: tuple[Path, ...] = ()
        self._states = self._look()

    def pin(self, paths: Iterable[Path]) -> None:
        """Count `paths` among the files, wherever they are, as they are now."""
        self._further = (*self._further, *(path for path in paths if path not in self._states))
        self._states |= {path: state for path in self._further if (state := _state(path))}

    def check(self) -> None:
        """Raises:
        UserError: a file was changed, removed or added since.
        """
        now = self._look()
        for path in sorted(self._states.keys() | now.keys()):
            if self._states.get(path) != now.get(path):
                how = "was removed" if path not in now else "was changed" if path in self._states else "was added"
                raise _changed(path, how)

    def check_file(self, path: Path) -> None:
        """Raises:
        UserError: the file `path` was changed or removed since.
        """
        if path in self._states and _state(path) != self._states[path]:
            raise _changed(path, "was changed or removed")

    def size(self, path: Path) -> int:
        """Bytes of a pinned file."""
        return self._states[path].size

    def hashes(self, paths: Iterable[Path], on_bytes: Callable[[int], None] = lambda count: None) -> dict[str, str]:
        """SHA-256 of what was read from each of `paths`, by name; `on_bytes` as of `sha256_of`.

        Raises:
            UserError: a file cannot be read, or was changed since.
        """
        found = {}
        for path in paths:
            self.check_file(path)
            try:
                found[path.name] = sha256_of(path, on_bytes)
            except OSError as error:
                raise UserError(f"{path}: cannot be read ({error.strerror})") from error
            self.check_file(path)
        return found

    def _look(self) -> dict[Path, _State]:
        paths = {path for pattern in _PINNED_PATTERNS for path in self.folder.glob(pattern)}
        return {path: state for path in (*paths, *self._further) if (state := _state(path))}


def _state(path: Path) -> _State | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return _State(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _changed(path: Path, how: str) -> UserError:
    return UserError(f"{path}: {how} after this run began; try again when nothing writes there any more")
