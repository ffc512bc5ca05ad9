"""What libraries write to standard error that is no news to the person who runs a command."""

from __future__ import annotations

import logging
import os
import sys

# torchao lists the GPU extensions that it cannot load, torch an enumeration that it knows already.
_CHATTY_LOGGERS = ("torchao", "torch.utils._pytree")


def silence_loggers() -> None:
    """Show only errors of libraries that log at import; call it before transformers is imported."""
    for name in _CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


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
