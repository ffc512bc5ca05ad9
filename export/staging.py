"""Output that appears when it is whole, and leaves nothing behind when it does not come to be."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..runtime.errors import UserError


@contextlib.contextmanager
def staged_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its name when the block ends well, and is removed when it does not.

    Raises:
        UserError: `out` is a file or holds something, or its parent cannot be written.
    """
    out = out.absolute()
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; expected a new or empty folder")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out}: is not empty; expected a new or empty folder")
    missing = [folder for folder in out.parents if not folder.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name}-unfinished-", dir=out.parent))
        staging.chmod(0o755)
        if out.is_dir() and not os.access(out, os.W_OK):
            staging.rmdir()
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); choose another folder") from error
    try:
        yield staging
        os.replace(staging, out)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
