"""Signatures to skeleton flatbuffers, traced by worker processes side by side."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ...runtime.errors import UserError
from ...runtime.scratch import scratch_folder
from ...runtime.workers import worker
from .signatures import Signature
from .skeleton_cache import SkeletonCache, holds
from .trace import CANNOT_WRITE

_WORKER_GIGABYTES = 2


class ConversionError(RuntimeError):
    """The converter failed; the message ends with the last lines of its output."""


def convert(
    signatures: list[Signature],
    *,
    cache: SkeletonCache | None = None,
    workers: int | None = None,
    on_progress: Callable[[str], None] = lambda name: None,
    show_output: bool = False,
) -> dict[str, bytes]:
    """Flatbuffer of each signature by name, with its weights as inputs.

    Args:
        signatures: with distinct names.
        cache: earlier results to take from and add to; they depend on configurations, not on weights.
        workers: processes at a time; by default one per core, at most one per two gigabytes of memory.
        on_progress: called with the name of each signature as it is done.
        show_output: let the converter write to standard error instead of to a file.

    Raises:
        ConversionError: a worker failed.
        UserError: a worker was killed, or could not write.
    """
    done: dict[str, bytes] = {}
    missing: list[Signature] = []
    for signature in signatures:
        kept = cache.get(signature) if cache else None
        if kept is not None:
            done[signature.name] = kept
            on_progress(signature.name)
        else:
            missing.append(signature)
    if missing:
        with scratch_folder("trace") as folder:
            traced = _run_workers(missing, folder, workers or _default_workers(), on_progress, show_output)
        done.update(traced)
        if cache:
            cache.put(traced, missing)
    return done


def _default_workers() -> int:
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):
        memory = 8 << 30
    return max(1, min(os.cpu_count() or 1, memory // (_WORKER_GIGABYTES << 30)))


def _shares(signatures: list[Signature], workers: int) -> list[list[Signature]]:
    """Split so that the costliest signatures (those with most weights) spread evenly over the workers."""
    shares: list[list[Signature]] = [[] for _ in range(min(workers, len(signatures)))]
    for signature in sorted(signatures, key=lambda signature: -len(signature.weights)):
        min(shares, key=lambda share: sum(len(member.weights) for member in share)).append(signature)
    return shares


def _run_workers(
    signatures: list[Signature], folder: Path, workers: int, on_progress: Callable[[str], None], show_output: bool
) -> dict[str, bytes]:
    waiting = {signature.name for signature in signatures}
    with _started(_shares(signatures, workers), folder, show_output) as processes:
        while waiting:
            exited = all(process.poll() == 0 for process in processes)
            for name in sorted(waiting):
                if (folder / f"{name}.tflite").exists():
                    waiting.discard(name)
                    on_progress(name)
            for index, process in enumerate(processes):
                if process.poll() not in (None, 0):
                    log = "" if show_output else (folder / f"{index}.log").read_text(errors="replace")
                    raise _failure(process.returncode, log.splitlines(), folder)
            if exited and waiting:
                raise ConversionError(f"litert-torch wrote nothing for {', '.join(sorted(waiting))}")
            time.sleep(0.05)
    traced = {signature.name: (folder / f"{signature.name}.tflite").read_bytes() for signature in signatures}
    for name, content in traced.items():
        if not holds(content, name):
            raise ConversionError(f"litert-torch wrote no graph of {name}")
    return traced


def _failure(code: int, log: list[str], folder: Path) -> Exception:
    """The error for a worker that ended with `code` after writing `log`."""
    if code == CANNOT_WRITE:
        return UserError(f"{log[-1] if log else folder} while tracing graphs; free some space, or set TMPDIR elsewhere")
    if code == -signal.SIGKILL:
        return UserError("a tracing process was killed, most often for lack of memory; close other programs, try again")
    tail = "\n".join(log[-15:])
    return ConversionError(f"litert-torch failed (exit code {code})\n{tail}")


@contextlib.contextmanager
def _started(shares: list[list[Signature]], folder: Path, show_output: bool) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Worker processes, one per share; all are ended when the block is left, however it is left."""
    # One thread each: tracing does no arithmetic, and idle thread pools get in each other's way. What libraries put
    # among temporary files is removed with the folder.
    environment = {"OMP_NUM_THREADS": "1", "LITERT_TORCH_SHOW_PROGRESS": "n", "TMPDIR": str(folder)}
    with contextlib.ExitStack() as stack:
        processes = []
        for index, share in enumerate(shares):
            task = folder / f"{index}.pickle"
            task.write_bytes(pickle.dumps(share, protocol=5))
            log = None if show_output else stack.enter_context((folder / f"{index}.log").open("wb"))
            started = worker(
                "gemma_mtp.export.graphs.trace", str(task), str(folder),
                stdout=log or sys.stderr.fileno(), stderr=log, environment=environment,
            )  # fmt: skip
            processes.append(stack.enter_context(started))
        yield processes
