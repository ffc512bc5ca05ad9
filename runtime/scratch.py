"""Folders for unfinished and passing files that are known to be left over when their owner is gone.

Each holds a file that its owner keeps locked (`flock`). The kernel gives the lock back when a process ends, however it
ends, so a lock that can be had tells of an owner that is gone: in a container as well, where process ids say little.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where no leftover is known for one.
    fcntl = None

# A folder without this file is not one of ours, whatever its name.
OWNER = ".gemma-mtp-owner"
_TEMPORARY = "gemma-mtp-*"
_ATTEMPTS, _PAUSE = 30, 0.1
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class InUseError(Exception):
    """A living process owns the folder."""


@dataclass(frozen=True)
class Leftover:
    """A folder that an earlier run left and that was removed, and the bytes that were in it."""

    path: Path
    size: int

    def __str__(self) -> str:
        return f"Removed {self.path}: {self.size:,} bytes that an earlier run left when it was ended"


@contextlib.contextmanager
def owned_folder(path: Path) -> Iterator[Path]:
    """The folder `path`, this process's own until the block is left; then it is removed with all that is in it.

    What an owner that is gone left there is removed first.

    Raises:
        InUseError: another process owns it.
        OSError: it cannot be made, or something else is there.
    """
    lock = _claim(path)
    try:
        _empty(path)
        yield path
    finally:
        with uninterrupted():
            with contextlib.suppress(OSError):
                _remove(path)
            os.close(lock)


@contextlib.contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """A new folder among the system's temporary files, owned by this process and removed at the block's end."""
    with owned_folder(Path(tempfile.gettempdir(), f"gemma-mtp-{purpose}-{secrets.token_hex(6)}")) as folder:
        yield folder


def remove_leftovers(parent: Path, pattern: str) -> list[Leftover]:
    """Remove the owned folders of `parent` whose names match `pattern` and whose owners are gone."""
    removed = []
    for folder in sorted(parent.glob(pattern)) if parent.is_dir() else []:
        with contextlib.suppress(OSError):
            if _is_ours(folder) and (size := _remove_if_left(folder)) is not None:
                removed.append(Leftover(folder, size))
    return removed


def remove_temporary_leftovers() -> list[Leftover]:
    """As `remove_leftovers`, of all folders of `scratch_folder`."""
    return remove_leftovers(Path(tempfile.gettempdir()), _TEMPORARY)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Put off Ctrl-C, SIGTERM and SIGHUP until the block's end; for the few steps that must not be left half way."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    # None: a handler that Python did not install and could not put back.
    put_off = {n: old for n in numbers if (old := signal.getsignal(n)) not in (signal.SIG_IGN, None)}
    for number in put_off:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in put_off.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def _claim(path: Path) -> int:
    """Make and lock the folder `path`; the lock's descriptor."""
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        if not (path / OWNER).exists() and any(path.iterdir()):
            raise FileExistsError(errno.EEXIST, "holds files of unknown origin; remove it or choose another name", path)
        # Another may take it for a leftover, or remove one of this name, between any two of these lines.
        with contextlib.suppress(FileNotFoundError):
            if (lock := _lock(path, os.O_CREAT)) is not None:
                return lock
        time.sleep(_PAUSE)
    raise InUseError(path)


def _lock(folder: Path, flags: int = 0) -> int | None:
    """Descriptor of the folder's lock, None if another process has it."""
    place = folder / OWNER
    lock = os.open(place, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | flags, 0o600)
    if _try_lock(lock):
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), place.stat()):
                return lock
    os.close(lock)
    return None


def _try_lock(lock: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_ours(folder: Path) -> bool:
    """Is `folder` one that this user owns, with our file in it (or empty, as it is for a moment when it is made)?"""
    if fcntl is None or folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.getuid():
        return False
    return (folder / OWNER).is_file() or not any(folder.iterdir())


def _remove_if_left(folder: Path) -> int | None:
    """Bytes removed; None if there was nothing in `folder`, or a living process owns it."""
    if not (folder / OWNER).exists():
        folder.rmdir()
        return None
    lock = _lock(folder)
    if lock is None:
        return None
    try:
        size = sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
        with uninterrupted():
            _remove(folder)
    finally:
        os.close(lock)
    return size


def _remove(folder: Path) -> None:
    """The owner's file goes last: without it, nobody would know the rest for a leftover."""
    _empty(folder)
    (folder / OWNER).unlink()
    folder.rmdir()


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != OWNER:
            entry.unlink()
