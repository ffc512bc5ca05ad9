"""How long to search, and what may come out of it.

The same seeds in every run; `make fuzz` sets FUZZ_SECONDS, to be shared by the tests that search, and new seeds, or
those from FUZZ_SEED on. A failure names its seed: `FUZZ_SEED=seed FUZZ_SECONDS=1 pytest tests/fuzz -k test` finds it
again.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator

import pytest

from gemma_mtp.runtime.errors import UserError
from gemma_mtp.runtime.printable import one_line

Seeds = Callable[[int], Iterator[int]]
# Tests that ask for `seeds`, roughly: each gets its share of FUZZ_SECONDS.
_SEARCHES = 10
_SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
_FIRST = int(os.environ.get("FUZZ_SEED") or (random.SystemRandom().randrange(1 << 32) if _SECONDS else 0))


def pytest_report_header() -> str | None:
    return f"fuzz: {_SECONDS:g} s, FUZZ_SEED={_FIRST}" if _SECONDS else None


@pytest.fixture
def seeds() -> Seeds:
    """So many seeds, or as many as there is time for."""

    def count(most: int) -> Iterator[int]:
        if not _SECONDS:
            yield from range(most)
            return
        end, seed = time.monotonic() + _SECONDS / _SEARCHES, _FIRST
        while time.monotonic() < end:
            yield seed
            seed += 1

    return count


def refusal(action: Callable[[], object], seed: object) -> str | None:
    """The one line with which `action` was refused, None if it was not; any other exception fails the test."""
    try:
        action()
    except UserError as error:
        return one_line(str(error))
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        error.add_note(f"seed {seed}")
        raise
    return None
