"""The child process: LiteRT-LM reports the drafter's acceptance only in its log, when an engine is destroyed, and it
can abort the process that it runs in. `python -m MODULE` reads a request and writes a result, JSON each."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_ACCEPTANCE = re.compile(r"MTP Drafter - Success rate: ([0-9.e+-]+)")
# Before each message of absl's log: severity, time, thread and place.
_LOG_PREFIX = re.compile(r"^[IWEF]\d{4} [\d:.]+ +\d+ [\w.]+:\d+\] ")
_TAIL_LINES = 15


class StockRuntimeError(RuntimeError):
    """LiteRT-LM refused the bundle or aborted; the message ends with the last lines of its log."""


def run_child(kind: str, request: dict[str, Any]) -> tuple[dict[str, Any], float | None]:
    """Answer `request` in a child process; its keys `bundle` and `speculative` are read here, too.

    Args:
        kind: `sessions` or `conversations`.
        request: what that module's `answer` takes, in JSON's types.

    Returns:
        its result, and the share of drafted tokens that the target accepted (None without speculative decoding).

    Raises:
        StockRuntimeError: the runtime failed, or did not report an acceptance rate though it should have.
    """
    bundle = request["bundle"]
    with tempfile.TemporaryDirectory(prefix="gemma-mtp-stock-") as folder:
        asked, answered = Path(folder, "request.json"), Path(folder, "result.json")
        asked.write_text(json.dumps(request), "utf-8")
        process = subprocess.run(
            [sys.executable, "-m", __package__ or "", kind, str(asked), str(answered)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
        )  # fmt: skip
        if process.returncode or not answered.exists():
            tail = "\n".join(process.stdout.splitlines()[-_TAIL_LINES:])
            found = reason(process.stdout)
            raise StockRuntimeError(
                f"LiteRT-LM failed on {bundle} (exit code {process.returncode}){': ' + found if found else ''}\n{tail}"
            )
        result = json.loads(answered.read_text("utf-8"))
    rates = _ACCEPTANCE.findall(process.stdout)
    if request["speculative"] and not rates:
        raise StockRuntimeError(f"LiteRT-LM ran {bundle} without reporting an acceptance rate; did it draft at all?")
    return result, float(rates[-1]) if request["speculative"] else None


def reason(log: str) -> str:
    """The runtime's own last error message in its log, on one line; empty if it gave none."""
    errors = [_LOG_PREFIX.sub("", line) for line in log.splitlines() if line.startswith(("E0", "E1", "F0", "F1"))]
    return errors[-1] if errors else ""


def open_engine(request: dict[str, Any], cache: str, **settings: Any) -> Any:
    """LiteRT-LM's engine on the request's `bundle`, `backend`, `threads` and `speculative`, with its log on."""
    import litert_lm

    litert_lm.set_min_log_severity(litert_lm.LogSeverity.INFO)
    on_gpu = request["backend"] == "gpu"
    backend = litert_lm.Backend.GPU() if on_gpu else litert_lm.Backend.CPU(thread_count=request["threads"])
    return litert_lm.Engine(
        request["bundle"],
        backend=backend,
        cache_dir=cache,
        enable_speculative_decoding=request["speculative"],
        **settings,
    )
