"""What native libraries write to standard error."""

from __future__ import annotations

import os
import sys


def silence_native_stderr() -> None:
    """Send it to nowhere from now on, to the end of the process; Python's own `sys.stderr` keeps writing.

    LiteRT logs every model it loads and has no switch for it.
    """
    if sys.stderr is None or sys.stderr.fileno() != 2:
        return
    sys.stderr.flush()
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding=sys.stderr.encoding, errors=sys.stderr.errors)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
