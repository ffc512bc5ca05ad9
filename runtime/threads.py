"""How many CPU threads a person may ask for."""

from __future__ import annotations

import os

from .errors import UserError

# More than the cores of most machines; LiteRT's pool of threads ends the process where the system has no more of them.
MOST_THREADS = 256


def default_threads() -> int:
    """All cores, at most 4, as LiteRT-LM does."""
    return min(4, os.cpu_count() or 1)


def thread_count(asked: int | None) -> int:
    """`asked`, or the default for None.

    Raises:
        UserError: below 1 or above `MOST_THREADS`.
    """
    if asked is None:
        return default_threads()
    if not 1 <= asked <= MOST_THREADS:
        raise UserError(f"{asked} threads: expected 1 to {MOST_THREADS}; more than the cores gain nothing")
    return asked
