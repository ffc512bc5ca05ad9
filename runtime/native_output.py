"""What libraries write to standard error that is no news to the person who runs a model.

LiteRT's Python interface has no switch for its log (2.3.0: `kLiteRtEnvOptionTagMinLoggerSeverity` is not among
`EnvironmentOptions`), so file descriptor 2 is led into a file while models load. Lines that are not LiteRT's progress
reports are passed on afterwards: nothing that anyone else wrote meanwhile is lost.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextvars import ContextVar

# torchao lists the GPU extensions that it cannot load, torch an enumeration that it knows already.
_CHATTY_LOGGERS = ("torchao", "torch.utils._pytree")
# `INFO: [environment.cc:36] ...`, and `└ ...` that goes on from a warning; of a failure it writes `ERROR: ...`.
_PROGRESS = re.compile(r"(?:VERBOSE|DEBUG|INFO|WARNING): |└ ")
_REASON = re.compile(r"ERROR: (?:\[[\w./]+:\d+\] )?(.*)")
_REASON_LINES = 3
_STDERR = 2
# One at a time may lead the descriptor elsewhere; a block within a block is the same thread's.
_redirecting = threading.RLock()
_shown: ContextVar[bool] = ContextVar("litert_output_shown", default=False)


class LiteRtOutput:
    """What LiteRT wrote during a `quiet_litert` block."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115, closed by `quiet_litert`.
        self.failed = False

    def reason(self) -> str:
        """The last errors in one line, empty if there is none; they then count as reported, and are not passed on."""
        self.failed = True
        found = [match[1] for line in self.lines() if (match := _REASON.match(line))]
        return "; ".join(found[-_REASON_LINES:])

    def discard(self) -> None:
        """Pass nothing on of what was written so far: it was reported in other words."""
        self._file.seek(0)
        self._file.truncate()

    def lines(self) -> list[str]:
        """Everything so far."""
        self._file.seek(0)
        return self._file.read().decode(errors="replace").splitlines()

    def news(self) -> list[str]:
        """Lines that are neither progress reports nor part of a reported failure."""
        return [
            line for line in self.lines() if not _PROGRESS.match(line) and not (self.failed and _REASON.match(line))
        ]

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()


@contextlib.contextmanager
def quiet_litert() -> Iterator[LiteRtOutput]:
    """Keep LiteRT's progress reports off standard error within the block, and at the end of the process.

    Threads that load models at the same time do so one after the other. What others write to standard error meanwhile
    appears when the block ends; a child process that another thread starts meanwhile writes into the file, too.
    """
    output = LiteRtOutput()
    try:
        with _redirecting:
            kept = None if _shown.get() else _lead_stderr_to(output.fileno())
            try:
                yield output
            finally:
                if kept is not None:
                    _lead_stderr_back(kept, output)
    finally:
        output.close()


@contextlib.contextmanager
def show_litert() -> Iterator[None]:
    """Within the block and this context, `quiet_litert` lets everything through."""
    token = _shown.set(True)
    try:
        yield
    finally:
        _shown.reset(token)


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """Show only errors of libraries that log while they are imported; for the block that imports transformers first."""
    loggers = [logging.getLogger(name) for name in _CHATTY_LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _lead_stderr_to(descriptor: int) -> int | None:
    """Where standard error went before; None if it is closed."""
    _flush()
    try:
        kept = os.dup(_STDERR)
    except OSError:
        return None
    os.dup2(descriptor, _STDERR)
    _quiet_at_exit()
    return kept


def _lead_stderr_back(kept: int, output: LiteRtOutput) -> None:
    _flush()
    os.dup2(kept, _STDERR)
    os.close(kept)
    if news := output.news():
        os.write(_STDERR, "".join(f"{line}\n" for line in news).encode())


def _flush() -> None:
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()


@functools.cache
def _quiet_at_exit() -> None:
    """Once a process: LiteRT's buffers hold an environment that reports its end after Python's."""
    atexit.register(_silence_native_stderr)


def _silence_native_stderr() -> None:
    """Lead the descriptor nowhere; Python's own `sys.stderr` keeps writing where it did."""
    _flush()
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if sys.stderr is not None and sys.stderr.fileno() == _STDERR:
            sys.stderr = os.fdopen(
                os.dup(_STDERR), "w", buffering=1, encoding=sys.stderr.encoding, errors=sys.stderr.errors
            )
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, _STDERR)
    os.close(nowhere)
