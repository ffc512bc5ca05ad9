"""Output that appears when it is whole, and leaves nothing behind when it does not come to be."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

from ..runtime.errors import UserError
from ..runtime.scratch import InUseError, Leftover, owned_folder, remove_leftovers, uninterrupted

_UNFINISHED = "-unfinished"
# Written through, as it is nobody's file to replace.
STANDARD_OUTPUT = Path("/dev/stdout")


@contextlib.contextmanager
def staged_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its name when the block ends well, and is removed when it does not.

    Raises:
        UserError: `out` is no folder or holds something, its parent cannot be written, or another run is making it.
    """
    out = out.absolute()
    check_output_folder(out)
    missing = [folder for folder in out.parents if not folder.exists()]
    try:
        with contextlib.ExitStack() as stack:
            with _named(out):
                out.parent.mkdir(parents=True, exist_ok=True)
                owned = stack.enter_context(owned_folder(out.with_name(f".{out.name}{_UNFINISHED}")))
                staging = owned / out.name
                staging.mkdir()
            yield staging
            with uninterrupted(), _named(out):
                os.replace(staging, out)
    except BaseException:
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def check_output_folder(out: Path) -> None:
    """Raises:
    UserError: `out` cannot become the folder of an export.
    """
    out = out.absolute()
    if out.is_symlink():
        raise UserError(f"{out}: is a symbolic link; give the folder itself")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is {_kind(out)}; expected a new or empty folder")
    with _named(out):
        if out.is_dir() and any(out.iterdir()):
            raise UserError(f"{out}: is not empty; expected a new or empty folder")
        existing = next(folder for folder in (out, *out.parents) if folder.exists())
        check_writable_folder(existing)


def check_writable_folder(folder: Path) -> None:
    """Raises:
    OSError: no file can be made in `folder`.
    """
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def remove_unfinished(parent: Path) -> list[Leftover]:
    """Remove what earlier runs, whose processes are gone, left unfinished in the folder `parent`."""
    return remove_leftovers(parent, f".*{_UNFINISHED}*")


def check_output_file(file: Path, option: str) -> None:
    """Raises:
    UserError: `file`, which `option` names, cannot be written, or is there and no regular file.
    """
    if file == STANDARD_OUTPUT:
        return
    if file.is_symlink():
        raise UserError(f"{option}: {file} is a symbolic link; give the file itself")
    if file.exists() and not file.is_file():
        raise UserError(f"{option}: {file} is {_kind(file)}, which is never replaced; expected a new or regular file")
    try:
        check_writable_folder(file.absolute().parent)
    except OSError as error:
        raise UserError(
            f"{option}: {file} cannot be written ({error.strerror}); expected a file in an existing folder"
        ) from error


def write_output_file(file: Path, text: str, option: str) -> None:
    """Write `text` beside `file`, then give it that name; or to standard output, where `file` is /dev/stdout.

    Raises:
        UserError: `file`, which `option` names, cannot be written.
    """
    check_output_file(file, option)
    if file == STANDARD_OUTPUT:
        sys.stdout.write(text)
        return
    file = file.absolute()
    remove_unfinished(file.parent)
    try:
        with owned_folder(file.with_name(f".{file.name}{_UNFINISHED}-{secrets.token_hex(6)}")) as folder:
            part = folder / file.name
            part.write_text(text, "utf-8")
            with uninterrupted():
                os.replace(part, file)
    except OSError as error:
        raise UserError(
            f"{option}: {file} cannot be written ({error.strerror or error}); nothing was changed"
        ) from error


@contextlib.contextmanager
def names_failure(doing: str, path: Path) -> Iterator[None]:
    """Turn what the system refuses in the block (no space, no permission, a read error) into one line.

    Raises:
        UserError: naming the path and what was being done.
    """
    try:
        yield
    except OSError as error:
        hint = "; free some space, or choose another place" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise UserError(f"{error.filename or path}: {error.strerror or error} while {doing}{hint}") from error


@contextlib.contextmanager
def _named(out: Path) -> Iterator[None]:
    try:
        yield
    except InUseError as error:
        raise UserError(f"{out}: another export is writing it; wait for its end, or choose another folder") from error
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            reason = "meanwhile something was put there" if out.exists() else f"{error.filename} {error.strerror}"
        else:
            reason = error.strerror or str(error)
        raise UserError(f"{out}: cannot be written ({reason}); choose another folder") from error


def _kind(path: Path) -> str:
    kinds = {"a file": path.is_file, "a folder": path.is_dir, "a FIFO": path.is_fifo, "a socket": path.is_socket}
    return next((kind for kind, matches in kinds.items() if matches()), "a device")
