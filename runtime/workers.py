"""Worker processes that do not outlive the process that started them, however it ends.

A worker is `python -m MODULE ...`, run by this module's `main` in a new interpreter. Its standard input is a pipe whose
other end its parent alone holds: when the parent is gone, be it by SIGKILL, a thread reads the pipe's end and ends the
worker. On Linux the kernel ends it as well (`PR_SET_PDEATHSIG`), also while native code holds the interpreter's lock.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import IO, NoReturn

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_ORPHANED = 70


@contextlib.contextmanager
def worker(
    module: str,
    *arguments: str,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that runs `module`, and is ended when the block is left, if it has not ended itself.

    Args:
        module: full name of a module that does its work under `if __name__ == "__main__"`.
        arguments: its `sys.argv[1:]`.
        stdout: as of `subprocess.Popen`.
        stderr: as of `subprocess.Popen`.
        environment: variables to set beside this process's own.
    """
    command = [sys.executable, "-m", __name__, str(os.getpid()), module, *arguments]
    end, kept = os.pipe()
    try:
        # Neither end is inherited by other children: a second holder would keep the worker alive.
        process = subprocess.Popen(
            command, stdin=end, stdout=stdout, stderr=stderr, env={**os.environ, **(environment or {})}
        )
    except BaseException:
        os.close(kept)
        raise
    finally:
        os.close(end)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
        os.close(kept)


def run_worker(
    module: str, *arguments: str, environment: Mapping[str, str] | None = None, timeout: float | None = None
) -> tuple[int, str]:
    """Exit code of a worker, and all that it wrote to standard output and error.

    Raises:
        subprocess.TimeoutExpired: it took longer than `timeout` seconds, and was ended.
    """
    with worker(
        module, *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, environment=environment
    ) as process:
        output, _ = process.communicate(timeout=timeout)
        return process.returncode, output.decode(errors="replace")


def fork() -> int:
    """As `os.fork`, in a worker on Linux: the new process, too, ends when the one that it comes from is gone."""
    parent = os.getpid()
    process = os.fork()
    if process == 0:
        _die_by_signal(parent)
    return process


def die_with_parent(parent: int) -> None:
    """End this process when process `parent`, which started it and holds the other end of its input, is gone."""
    # Ctrl-C reaches the whole process group; it is the parent that answers it, and ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        _die_by_signal(parent)
    lifeline = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    threading.Thread(target=_wait_for_end, args=(lifeline,), daemon=True).start()


def _die_by_signal(parent: int) -> None:
    # The "parent" is the thread that started this process: it waits for its workers, so it does not end before.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # It was gone before this was asked for.
        os._exit(_ORPHANED)


def _wait_for_end(lifeline: int) -> NoReturn:
    os.read(lifeline, 1)  # Nothing is ever written, so this returns at the pipe's end.
    os._exit(_ORPHANED)


def main() -> None:
    """Entry point of a worker: `python -m gemma_mtp.runtime.workers PARENT MODULE ARGUMENTS...`."""
    parent, module = int(sys.argv[1]), sys.argv[2]
    die_with_parent(parent)
    sys.argv = sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
