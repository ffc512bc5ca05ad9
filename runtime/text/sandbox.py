"""A child process that renders templates of strangers within bounds of time and memory.

A template can loop for ever or ask for more memory than there is, at which MiniJinja aborts its process, so each engine
runs in a child of its own, to which `sandbox_child` sets limits. Where the system has no `resource` module, only time
and output are bounded.
"""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
import threading
import time
from functools import cache
from typing import Any

CHARACTERS_OF_TEMPLATE = 256 * 1024
CHARACTERS_OF_OUTPUT = 4 * 1024 * 1024
MEMORY = 1 << 30
SECONDS = 10.0
# The slower engine imports transformers, on a machine that may be busy.
_SECONDS_TO_START = 120.0
# Every character of an answer may be written as an escaped pair.
_BYTES_OF_ANSWER = 12 * CHARACTERS_OF_OUTPUT + 4096
_CHILD = f"{__package__}.sandbox_child"


class OutOfBoundsError(Exception):
    """A rendering took too long, too much memory or wrote too much; the message says which."""


class Sandbox:
    """One child process for the engine in the module `engine`, started at the first request and again after one that
    had to be ended. Requests are answered one at a time."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._given_up: dict[str, str] = {}

    def render(self, template: str, variables: dict[str, Any], seconds: float = SECONDS) -> dict[str, Any]:
        """What the engine's `answer(template, variables)` returned: `text`, or `refused` and `deliberate`.

        A template that was ended once is not tried again, whatever its variables.

        Raises:
            OutOfBoundsError: see there.
        """
        if len(template) > CHARACTERS_OF_TEMPLATE:
            limit = CHARACTERS_OF_TEMPLATE
            raise OutOfBoundsError(f"the template has {len(template):,} characters, at most {limit:,} are rendered")
        with self._lock:
            if template in self._given_up:
                raise OutOfBoundsError(self._given_up[template])
            try:
                return self._ask({"template": template, "variables": variables, "seconds": seconds}, seconds)
            except OutOfBoundsError as error:
                self._given_up[template] = str(error)
                raise

    def close(self) -> None:
        """End the child process, if there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def _ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        if self._process is None or self._process.poll() is not None:
            self._start()
        answer, late = self._exchange(json.dumps(request), seconds)
        if answer is not None:
            return answer
        self.close()
        if late:
            raise OutOfBoundsError(f"not done after {seconds:g} s")
        raise OutOfBoundsError(f"it takes more than {MEMORY >> 20} MiB of memory, or breaks the engine")

    def _start(self) -> None:
        self.close()
        self._process = subprocess.Popen(
            [sys.executable, "-m", _CHILD, self._engine],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        ready, _ = self._exchange(None, _SECONDS_TO_START)
        if ready is None:
            self.close()
            raise RuntimeError(f"the process that renders templates did not start: {sys.executable} -m {_CHILD}")

    def _exchange(self, request: str | None, seconds: float) -> tuple[dict[str, Any] | None, bool]:
        """The child's answer, None if it ended without one; and whether it was ended since it was late."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        began, timer = time.monotonic(), threading.Timer(seconds, process.kill)
        timer.start()
        try:
            if request is not None:
                process.stdin.write(request.encode() + b"\n")
                process.stdin.flush()
            line = process.stdout.readline(_BYTES_OF_ANSWER)
        except BrokenPipeError:
            line = b""
        except BaseException:  # An answer that comes later must not be taken for the next one's.
            self.close()
            raise
        finally:
            timer.cancel()
        return (json.loads(line) if line.endswith(b"\n") else None), time.monotonic() - began >= seconds


@cache
def sandbox_for(engine: str) -> Sandbox:
    """The process's sandbox for the engine in the module `engine`."""
    sandbox = Sandbox(engine)
    atexit.register(sandbox.close)
    return sandbox
