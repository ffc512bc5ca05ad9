"""The process behind `sandbox`: `python -m MODULE ENGINE` reads a request a line and answers each with a line, in JSON.

It ends with its standard input, so with its parent, and at the latest a second after the time of a request."""

from __future__ import annotations

import contextlib
import importlib
import json
import signal
import sys
from pathlib import Path
from typing import Any

from .sandbox import CHARACTERS_OF_OUTPUT, MEMORY


def main() -> None:
    """Answer requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent is interrupted, too, and closes the pipe.
    answers, sys.stdout = sys.stdout, sys.stderr
    engine: Any = importlib.import_module(sys.argv[1])
    _limit_memory()
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        _limit_time(request["seconds"] + 1)
        answer = _answer(engine, request)
        _limit_time(0)
        print(json.dumps(answer), file=answers, flush=True)


def _answer(engine: Any, request: dict[str, Any]) -> dict[str, Any]:
    try:
        found = engine.answer(request["template"], request["variables"])
    except (Exception, MemoryError) as error:  # A template can make any of Python's errors happen.
        found = {"refused": f"{type(error).__name__}: {error}"[:1000]}
    if len(found.get("text", "")) > CHARACTERS_OF_OUTPUT:
        return {"refused": f"it writes more than {CHARACTERS_OF_OUTPUT:,} characters"}
    return found


def _limit_memory() -> None:
    """Allow `MEMORY` bytes of addresses beyond what the engine took to load."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_time(seconds: float) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


if __name__ == "__main__":
    main()
