"""The child process: LiteRT-LM reports the drafter's acceptance only in its log, when an engine is destroyed, and it
can abort the process that it runs in. `python -m MODULE` reads a request and writes a result, JSON each."""

from __future__ import annotations

import json
import re
from typing import Any

from ..scratch import scratch_folder
from ..workers import run_worker

_ACCEPTANCE = re.compile(r"MTP Drafter - Success rate: ([0-9.e+-]+)")
# What stands before an error in absl's log: severity, date, time, thread and place.
_ERROR = re.compile(r"^[EF]\d{4} [\d:.]+ +\d+ [\w.]+:\d+\] ")
_LINES = 15


class StockRuntimeError(RuntimeError):
    """LiteRT-LM refused the bundle or aborted; the message has its reason, where it gave one, and lines of its log."""


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
    with scratch_folder("stock") as folder:
        asked, answered = folder / "request.json", folder / "result.json"
        asked.write_text(json.dumps(request), "utf-8")
        # Its own temporary files lie in the folder, and are removed with it however the child ends.
        code, log = run_worker(__package__ or "", kind, str(asked), str(answered), environment={"TMPDIR": str(folder)})
        if code or not answered.exists():
            found, lines = reason(log)
            head = f"LiteRT-LM failed on {bundle} (exit code {code})"
            raise StockRuntimeError("\n".join([f"{head}: {found}" if found else head, *lines]))
        result = json.loads(answered.read_text("utf-8"))
    rates = _ACCEPTANCE.findall(log)
    if request["speculative"] and not rates:
        raise StockRuntimeError(f"LiteRT-LM ran {bundle} without reporting an acceptance rate; did it draft at all?")
    return result, float(rates[-1]) if request["speculative"] else None


def reason(log: str) -> tuple[str, list[str]]:
    """The last error message in the runtime's log, empty if there is none; and the lines to show with it.

    These go on from that message, which may hold several, or are the log's last.
    """
    lines = log.splitlines()
    errors = [number for number, line in enumerate(lines) if _ERROR.match(line)]
    if not errors:
        return "", lines[-_LINES:]
    return _ERROR.sub("", lines[errors[-1]]).strip(), lines[errors[-1] + 1 :][:_LINES]


def open_engine(request: dict[str, Any], cache: str, **settings: Any) -> Any:
    """LiteRT-LM's engine on the request's `bundle`, `backend`, `threads`, `context_length` and `speculative`, with its
    log on."""
    import litert_lm

    litert_lm.set_min_log_severity(litert_lm.LogSeverity.INFO)
    on_gpu = request["backend"] == "gpu"
    backend = litert_lm.Backend.GPU() if on_gpu else litert_lm.Backend.CPU(thread_count=request["threads"])
    return litert_lm.Engine(
        request["bundle"],
        backend=backend,
        max_num_tokens=request["context_length"],
        cache_dir=cache,
        enable_speculative_decoding=request["speculative"],
        **settings,
    )
