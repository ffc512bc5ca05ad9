"""Processes that trace, started before it is known what: to load the converter takes them seconds."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ....runtime.scratch import scratch_folder
from ....runtime.workers import worker
from ...staging import names_failure
from .work import TASKS

# More of them take longer to load the converter than all graphs take to trace.
_MOST, _GIGABYTES_EACH = 4, 2


@dataclass(frozen=True)
class Tracers:
    """Running `processes`, which share the tasks that are put into `folder`, write graphs there and end."""

    folder: Path
    processes: list[subprocess.Popen[bytes]]

    def give(self, tasks: bytes) -> None:
        """Let them begin: `tasks` are what work.py takes, once."""
        part = self.folder / f"{TASKS}.part"
        part.write_bytes(tasks)
        os.replace(part, self.folder / TASKS)

    def output(self, index: int) -> list[str]:
        """The lines that a process has written; none where they are shown."""
        log = self.folder / f"{index}.log"
        return log.read_text(errors="replace").splitlines() if log.exists() else []


@contextlib.contextmanager
def tracers(*, most: int = _MOST, show_output: bool = False) -> Iterator[Tracers]:
    """One for each core, at most one for two gigabytes of memory; ended when the block is left, however it is left.

    On Linux they are forked from one that has loaded the converter.

    Args:
        most: of them all.
        show_output: let the converter write to standard error instead of to a file.
    """
    with scratch_folder("trace") as folder, contextlib.ExitStack() as stack:
        # One thread each: tracing does no arithmetic, and idle thread pools get in each other's way. What libraries put
        # among temporary files is removed with the folder.
        environment = {"OMP_NUM_THREADS": "1", "LITERT_TORCH_SHOW_PROGRESS": "n", "TMPDIR": str(folder)}
        processes = []
        count = min(most, _count())
        forked = count if sys.platform == "linux" else 1
        for index in range(count // forked):
            log = None if show_output else stack.enter_context((folder / f"{index}.log").open("wb"))
            started = worker(
                "gemma_mtp.export.graphs.tracing.work", str(folder), str(forked),
                stdout=log or sys.stderr.fileno(), stderr=log, environment=environment,
            )  # fmt: skip
            processes.append(stack.enter_context(started))
        yield Tracers(folder, processes)


@contextlib.contextmanager
def started_early(cache: Path | None, *, show_output: bool = False) -> Iterator[Tracers | None]:
    """Processes that load the converter while the block gets ready; None where the folder `cache` may have all graphs.

    Raises:
        UserError: there is no place for temporary files.
    """
    with contextlib.ExitStack() as stack:
        running = None
        if cache is None or not cache.is_dir() or not any(cache.iterdir()):
            with names_failure("starting to trace graphs", Path(tempfile.gettempdir())):
                running = stack.enter_context(tracers(show_output=show_output))
        yield running


def _count() -> int:
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):
        memory = 8 << 30
    return max(1, min(os.cpu_count() or 1, memory // (_GIGABYTES_EACH << 30), _MOST))
