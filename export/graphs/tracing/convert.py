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
from dataclasses import dataclass, field
from pathlib import Path

from ....runtime.errors import OUT_OF_MEMORY, UserError, says_out_of_memory
from ....runtime.scratch import scratch_folder
from ....runtime.workers import worker
from ...models.windowed import ROWS_PER_WINDOW
from ..signatures import Signature
from .skeleton_cache import SkeletonCache, holds
from .work import CANNOT_WRITE

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
    """As `conversion`, all at once."""
    with conversion(signatures, cache=cache, workers=workers, show_output=show_output) as running:
        return running.take([signature.name for signature in signatures], on_progress)


@contextlib.contextmanager
def conversion(
    signatures: list[Signature],
    *,
    cache: SkeletonCache | None = None,
    workers: int | None = None,
    show_output: bool = False,
) -> Iterator[Conversion]:
    """Flatbuffers of `signatures`, with their weights as inputs; made by processes that run until the block is left.

    Args:
        signatures: with distinct names.
        cache: earlier results to take from and add to; they depend on configurations, not on weights.
        workers: processes at a time; by default one per core, at most one per two gigabytes of memory.
        show_output: let the converter write to standard error instead of to a file.
    """
    kept = {signature.name: cache.get(signature) if cache else None for signature in signatures}
    missing = [signature for signature in signatures if kept[signature.name] is None]
    done = {name: content for name, content in kept.items() if content is not None}
    if not missing:
        yield Conversion(done)
        return
    count = min(workers or _default_workers(), len(missing))
    with scratch_folder("trace") as folder, _started(missing, count, folder, show_output) as processes:
        yield Conversion(done, missing, cache, processes, folder)


@dataclass
class Conversion:
    """Flatbuffers by signature's name: those `done`, and those that `processes` are writing to `folder`."""

    done: dict[str, bytes]
    missing: list[Signature] = field(default_factory=list)
    cache: SkeletonCache | None = None
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    folder: Path = Path()

    def take(self, names: list[str], on_progress: Callable[[str], None] = lambda name: None) -> dict[str, bytes]:
        """The flatbuffers of the signatures `names`, when all of them are there.

        Args:
            names: some of the conversion's signatures.
            on_progress: called with each name as it is there.

        Raises:
            ConversionError: a worker failed.
            UserError: a worker was killed, or could not write.
        """
        waiting = dict.fromkeys(names)
        traced: dict[str, bytes] = {}
        while waiting:
            exited = all(process.poll() == 0 for process in self.processes)
            for name in [*waiting]:
                if name not in self.done and (path := self.folder / f"{name}.tflite").exists():
                    traced[name] = self.done[name] = path.read_bytes()
                    if not holds(traced[name], name):
                        raise ConversionError(f"litert-torch wrote no graph of {name}")
                if name in self.done:
                    del waiting[name]
                    on_progress(name)
            for index, process in enumerate(self.processes):
                if process.poll() not in (None, 0):
                    log = self.folder / f"{index}.log"
                    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
                    raise _failure(process.returncode, lines, self.folder)
            if exited and waiting:
                raise ConversionError(f"litert-torch wrote nothing for {', '.join(sorted(waiting))}")
            if waiting:
                time.sleep(0.05)
        if self.cache and traced:
            self.cache.put(traced, [signature for signature in self.missing if signature.name in traced])
        return {name: self.done[name] for name in names}


def _default_workers() -> int:
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):
        memory = 8 << 30
    return max(1, min(os.cpu_count() or 1, memory // (_WORKER_GIGABYTES << 30)))


def _failure(code: int, log: list[str], folder: Path) -> Exception:
    """The error for a worker that ended with `code` after writing `log`."""
    if code == CANNOT_WRITE:
        return UserError(f"{log[-1] if log else folder} while tracing graphs; free some space, or set TMPDIR elsewhere")
    if code == -signal.SIGKILL:
        return UserError("a tracing process was killed, most often for lack of memory; close other programs, try again")
    tail = "\n".join(log[-15:])
    if says_out_of_memory(tail):
        return UserError(f"tracing graphs: {OUT_OF_MEMORY}")
    return ConversionError(f"litert-torch failed (exit code {code})\n{tail}")


@contextlib.contextmanager
def _started(
    signatures: list[Signature], count: int, folder: Path, show_output: bool
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Worker processes, which share `signatures`; all are ended when the block is left, however it is left."""
    # One thread each: tracing does no arithmetic, and idle thread pools get in each other's way. What libraries put
    # among temporary files is removed with the folder.
    environment = {"OMP_NUM_THREADS": "1", "LITERT_TORCH_SHOW_PROGRESS": "n", "TMPDIR": str(folder)}
    # Graphs of a single weight take a moment, and what needs only those can go on. Then the costliest come first, so
    # that the last ones fill what is left evenly: long prefills, which cut their windows many times, then deep graphs.
    tasks = folder / "signatures.pickle"
    ordered = sorted(signatures, key=lambda s: (len(s.weights) > 1, -(s.tokens // ROWS_PER_WINDOW), -len(s.weights)))
    tasks.write_bytes(pickle.dumps(ordered, protocol=5))
    with contextlib.ExitStack() as stack:
        processes = []
        for index in range(count):
            log = None if show_output else stack.enter_context((folder / f"{index}.log").open("wb"))
            started = worker(
                "gemma_mtp.export.graphs.tracing.work", str(tasks), str(folder),
                stdout=log or sys.stderr.fileno(), stderr=log, environment=environment,
            )  # fmt: skip
            processes.append(stack.enter_context(started))
        yield processes
