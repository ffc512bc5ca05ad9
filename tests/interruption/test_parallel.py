"""Work on several threads: in order, few results at a time, errors where they belong."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest

from gemma_mtp.export.parallel import Background, StoppedError, background, in_order


def test_results_come_in_order_and_few_at_a_time() -> None:
    begun: list[int] = []

    def task(number: int) -> int:
        begun.append(number)
        time.sleep(0.001 * (number % 3))
        return number

    results = in_order((partial(task, number) for number in range(50)), threads=2)
    assert next(results) == 0
    assert max(begun) <= 5
    assert list(results) == list(range(1, 50))


def test_failing_task_ends_the_rest() -> None:
    begun: list[int] = []

    def task(number: int) -> int:
        begun.append(number)
        if number == 3:
            raise OSError("broken")
        return number

    with pytest.raises(OSError, match="broken"):
        list(in_order((partial(task, number) for number in range(50)), threads=2))
    assert len(begun) < 12


def test_background_work_is_waited_for_and_its_error_raised() -> None:
    done = threading.Event()
    with background(lambda work: done.set()):
        pass
    assert done.is_set()

    def fail(work: Background[None]) -> None:
        raise OSError("broken")

    with pytest.raises(OSError, match="broken"), background(fail):
        pass


def test_background_work_is_stopped_where_the_block_fails() -> None:
    ended: list[type] = []

    def work(running: Background[None]) -> None:
        try:
            while True:
                running.check()
                time.sleep(0.001)
        except StoppedError:
            ended.append(StoppedError)
            raise

    with pytest.raises(KeyboardInterrupt), background(work):
        raise KeyboardInterrupt
    assert ended == [StoppedError]
