"""Progress of long work: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

Advance = Callable[[float, str], None]


class Reporter:
    """Says what is being done on `console`; `quiet` says nothing."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self.console = console
        self.quiet = quiet

    def say(self, line: str) -> None:
        """One line of text."""
        if not self.quiet:
            self.console.print(line, highlight=False, soft_wrap=True, markup=False)

    @contextlib.contextmanager
    def stage(self, title: str, total: float, *, lines: bool = False) -> Iterator[Advance]:
        """A piece of work of `total` units; the block is given a function (units done, what was just done).

        Away from a terminal, `lines` prints one line for each call of that function.
        """
        started = time.monotonic()
        if self.quiet:
            yield lambda amount, detail: None
            return
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[detail]}"))
            with Progress(*columns, TimeElapsedColumn(), console=self.console, transient=True) as progress:
                task = progress.add_task(title, total=total, detail="")
                yield lambda amount, detail: progress.update(task, advance=amount, detail=detail)
        else:
            self.say(f"{title} ...")
            yield lambda amount, detail: self.say(f"  {detail}") if lines else None
        self.say(f"{title}: done in {time.monotonic() - started:.1f} s")
