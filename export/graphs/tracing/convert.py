"""Signatures to skeleton flatbuffers, traced by worker processes side by side."""

from __future__ import annotations

import contextlib
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ....runtime.errors import OUT_OF_MEMORY, UserError, says_out_of_memory
from ...models.windowed import ROWS_PER_WINDOW
from ..signatures import Signature
from .skeleton_cache import SkeletonCache, holds
from .tracers import Tracers, tracers
from .work import CANNOT_WRITE


class ConversionError(RuntimeError):
    """The converter failed; the message ends with the last lines of its output."""


def convert(
    signatures: list[Signature],
    *,
    cache: SkeletonCache | None = None,
    on_progress: Callable[[str], None] = lambda name: None,
    show_output: bool = False,
) -> dict[str, bytes]:
    """As `conversion`, all at once."""
    with conversion(signatures, cache=cache, show_output=show_output) as running:
        return running.take([signature.name for signature in signatures], on_progress)


@contextlib.contextmanager
def conversion(
    signatures: list[Signature],
    *,
    cache: SkeletonCache | None = None,
    running: Tracers | None = None,
    show_output: bool = False,
) -> Iterator[Conversion]:
    """Flatbuffers of `signatures`, with their weights as inputs; made by processes that run until the block is left.

    Args:
        signatures: with distinct names.
        cache: earlier results to take from and add to; they depend on configurations, not on weights.
        running: processes to use, which have had no signatures; by default they are started.
        show_output: let the converter of those that are started write to standard error instead of to a file.
    """
    kept = {signature.name: cache.get(signature) if cache else None for signature in signatures}
    missing = [signature for signature in signatures if kept[signature.name] is None]
    done = {name: content for name, content in kept.items() if content is not None}
    if not missing:
        yield Conversion(done)
        return
    started = contextlib.nullcontext(running) if running else tracers(most=len(missing), show_output=show_output)
    with started as processes:
        # Graphs of a single weight take a moment, and what needs only those can go on. Then the costliest come first,
        # so that the last ones fill what is left evenly: long prefills, which cut their windows many times, then deep
        # graphs.
        ordered = sorted(missing, key=lambda s: (len(s.weights) > 1, -(s.tokens // ROWS_PER_WINDOW), -len(s.weights)))
        processes.give(pickle.dumps(ordered, protocol=5))
        yield Conversion(done, missing, cache, processes)


@dataclass
class Conversion:
    """Flatbuffers by signature's name: those `done`, and those that `running` processes are writing."""

    done: dict[str, bytes]
    missing: list[Signature] = field(default_factory=list)
    cache: SkeletonCache | None = None
    running: Tracers = field(default_factory=lambda: Tracers(Path(), []))

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
            exited = all(process.poll() == 0 for process in self.running.processes)
            for name in [*waiting]:
                if name not in self.done and (path := self.running.folder / f"{name}.tflite").exists():
                    traced[name] = self.done[name] = path.read_bytes()
                    if not holds(traced[name], name):
                        raise ConversionError(f"litert-torch wrote no graph of {name}")
                if name in self.done:
                    del waiting[name]
                    on_progress(name)
            for index, process in enumerate(self.running.processes):
                if process.poll() not in (None, 0):
                    raise _failure(process.returncode, self.running.output(index), self.running.folder)
            if exited and waiting:
                raise ConversionError(f"litert-torch wrote nothing for {', '.join(sorted(waiting))}")
            if waiting:
                time.sleep(0.05)
        if self.cache and traced:
            self.cache.put(traced, [signature for signature in self.missing if signature.name in traced])
        return {name: self.done[name] for name in names}


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
