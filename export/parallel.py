"""Work on several threads: results in order with few of them at a time, and work in the background."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
# Each holds one result of its own; more threads than this have not been tried.
_MOST_THREADS = 8
# Results that wait for those before them.
_WAITING = 2


def in_order(tasks: Iterable[Callable[[], T]], threads: int | None = None) -> Iterator[T]:
    """Results of `tasks`, made on several threads, in the order of the tasks; never more than a few at a time.

    When the consumer stops, by an error as well, the tasks that run are waited for and no other is begun.
    """
    count = threads or max(1, min(os.cpu_count() or 1, _MOST_THREADS))
    pool = ThreadPoolExecutor(count, thread_name_prefix="export")
    running: deque[Future[T]] = deque()
    try:
        for task in tasks:
            running.append(pool.submit(task))
            if len(running) > count + _WAITING:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class StoppedError(Exception):
    """Work in the background is not wanted any more."""


class Background(Generic[T]):
    """Work on a thread of its own.

    Attributes:
        stopping: whether it is to end; it calls `check` now and then.
    """

    def __init__(self, work: Callable[[Background[T]], T]) -> None:
        self.stopping = threading.Event()
        self._outcome: Future[T] = Future()
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises:
        StoppedError: the work is to end.
        """
        if self.stopping.is_set():
            raise StoppedError

    def raise_failure(self) -> None:
        """Raise what the work has failed with, if it has."""
        if self._outcome.done():
            self._outcome.result()

    def _run(self, work: Callable[[Background[T]], T]) -> None:
        try:
            self._outcome.set_result(work(self))
        except BaseException as error:  # Raised again where the outcome is asked for.
            self._outcome.set_exception(error)

    def result(self) -> T:
        """What the work gave, waited for; its error is raised."""
        return self._outcome.result()

    def end(self) -> None:
        """Stop the work and wait for its end."""
        self.stopping.set()
        self._thread.join()


@contextlib.contextmanager
def background(work: Callable[[Background[T]], T]) -> Iterator[Background[T]]:
    """`work` on a thread of its own while the block runs; at the block's end it is waited for and its error raised.

    Where the block fails, the work is stopped first.
    """
    running = Background(work)
    try:
        yield running
        running.result()
    finally:
        running.end()
