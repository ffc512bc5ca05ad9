"""Progress of long work: bars on a terminal, plain lines elsewhere; and how long each stage took."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from ..runtime.units import size

try:
    import resource
except ImportError:  # Windows.
    resource = None

Advance = Callable[[float, str], None]
# Seconds between two lines of a stage that counts bytes, away from a terminal.
_PAUSE = 10.0
# From this share of a stage on, its own speed is what the rest of it will have.
_MEASURED = 0.05


def peak_memory() -> tuple[int, int]:
    """Most bytes that this process, and that the largest of its children that have ended, had resident at a time.

    As the kernel counts them (`getrusage`), mapped files among them.
    """
    if resource is None:
        return 0, 0
    unit = 1 if sys.platform == "darwin" else 1024
    own, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own * unit, children * unit


@dataclass
class Expected:
    """A stage to come or under way: how many units, and about how many seconds each takes before that is measured."""

    title: str
    total: float
    seconds_each: float
    done: float = 0.0
    begun: float | None = None
    ended: bool = False

    def left(self, now: float) -> float:
        """Seconds that it will still take."""
        if self.ended:
            return 0.0
        each = self.seconds_each
        if self.begun is not None and self.done > _MEASURED * self.total:
            each = (now - self.begun) / self.done
        return (self.total - self.done) * each


class Reporter:
    """Says what is being done on `console`; `quiet` says nothing.

    Attributes:
        seconds: how long each stage has taken that has ended well, by title, in the order of their ends. Stages may run
            side by side.
    """

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self.console = console
        self.quiet = quiet
        self.seconds: dict[str, float] = {}
        self._begun = time.monotonic()
        self._expected: dict[str, Expected] = {}
        self._lock = threading.RLock()
        self._live: Progress | None = None
        self._open = 0

    @property
    def elapsed(self) -> float:
        """Seconds since this object was made."""
        return time.monotonic() - self._begun

    def say(self, line: str) -> None:
        """One line of text."""
        if not self.quiet:
            self.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def expect(self, stages: Iterable[Expected]) -> None:
        """Tell what is to come, so that the time left counts all of it."""
        self._expected |= {stage.title: stage for stage in stages}

    @contextlib.contextmanager
    def stage(self, title: str, total: float, *, lines: bool = False, in_bytes: bool = False) -> Iterator[Advance]:
        """A piece of work of `total` units; the block is given a function (units done, what was just done).

        Away from a terminal, `lines` prints one line for each call of that function, and `in_bytes` one now and then,
        with the time left.
        """
        stage = self._expected.setdefault(title, Expected(title, total, 0.0))
        stage.total, stage.begun = total, time.monotonic()
        told = stage.begun
        with self._bar(title, total) as show:
            if not self.quiet and not self.console.is_terminal:
                self.say(f"{title} ...")

            def advance(amount: float, detail: str) -> None:
                nonlocal told
                stage.done += amount
                if in_bytes:
                    detail = f"{size(stage.done)} of {size(total)} {detail}".rstrip()
                show(amount, f"{detail}{self._left()}")
                now = time.monotonic()
                if self.quiet or self.console.is_terminal or not (lines or (in_bytes and now - told >= _PAUSE)):
                    return
                told = now
                self.say(f"  {detail}{self._left() if in_bytes else ''}")

            yield advance
        stage.ended = True
        self.seconds[title] = time.monotonic() - stage.begun
        self.say(f"{title}: done in {self.seconds[title]:.1f} s")

    def _left(self) -> str:
        now = time.monotonic()
        seconds = sum(stage.left(now) for stage in self._expected.values())
        return f", about {seconds:.0f} s left" if seconds >= 1 else ""

    @contextlib.contextmanager
    def _bar(self, title: str, total: float) -> Iterator[Advance]:
        """A bar among those of the other stages that run, which one display shows."""
        if self.quiet or not self.console.is_terminal:
            yield lambda amount, detail: None
            return
        with self._lock:
            if self._live is None:
                columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[detail]}"))
                self._live = Progress(*columns, TimeElapsedColumn(), console=self.console, transient=True)
                self._live.start()
            live, self._open = self._live, self._open + 1
        task: TaskID = live.add_task(title, total=total, detail="")
        try:
            yield lambda amount, detail: live.update(task, advance=amount, detail=detail)
        finally:
            with self._lock:
                live.remove_task(task)
                self._open -= 1
                if not self._open:
                    live.stop()
                    self._live = None
