"""The stages of one verification: which has run, for how long, and whether to go on after one that failed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from ..errors import BundleError
from .report.report import Stage, Verdict

Progress = Callable[[str, str], None]


class _StopError(Exception):
    """A stage failed, and nothing more is to be run."""


class StageRuns:
    """All stages by name, in their order; `run` fills one."""

    def __init__(self, names: Iterable[str], on_progress: Progress | None, *, stop_at_first_failure: bool) -> None:
        self.by_name = {name: Stage(name) for name in names}
        self._on_progress = on_progress or (lambda stage, detail: None)
        self._stop = stop_at_first_failure

    @property
    def in_order(self) -> tuple[Stage, ...]:
        """All of them, from the first to the last."""
        return tuple(self.by_name.values())

    def failed(self, name: str) -> bool:
        """Whether a check of stage `name` failed."""
        return self.by_name[name].verdict is Verdict.FAIL

    @contextmanager
    def run(self, name: str, detail: str = "") -> Iterator[Stage]:
        """The block is a part of stage `name`, which fails where the bundle cannot be read; its time counts there.

        Within `until_stopped`, nothing after the block is run if the stage has failed and that is to stop.
        """
        self.tell(name, detail)
        started = time.perf_counter()
        try:
            yield self.by_name[name]
        except BundleError as error:
            self.by_name[name].holds("the bundle can be read", [str(error)])
        self.by_name[name].seconds += time.perf_counter() - started
        if self._stop and self.failed(name):
            raise _StopError

    @contextmanager
    def until_stopped(self) -> Iterator[None]:
        """The block is left after the first stage that fails, if that is to stop; stages without a check are skipped
        then."""
        try:
            yield
        except _StopError:
            self.skip_others("--fail-fast, and a stage before it failed")

    def skip_others(self, reason: str) -> None:
        """Every stage that has no check yet was not run."""
        for stage in self.in_order:
            if not stage.checks:
                stage.skip("everything", reason)

    def tell(self, name: str, detail: str) -> None:
        """Report what stage `name` does."""
        self._on_progress(name, detail)
