"""Run a bundle on stock LiteRT-LM, the unmodified C++ runtime from PyPI, in a process of its own.

The runtime reports the drafter's acceptance only in its log, when an engine is destroyed; and it can abort the process
it runs in. Both ask for a child process: `python -m gemma_mtp.runtime.stock` reads a request and writes a result, JSON
each.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_ACCEPTANCE = re.compile(r"MTP Drafter - Success rate: ([0-9.e+-]+)")


class StockRuntimeError(RuntimeError):
    """LiteRT-LM refused the bundle or aborted; the message ends with the last lines of its log."""


@dataclass(frozen=True)
class Request:
    """What to run: each prompt in a session of its own, greedily, until a stop token, `max_tokens` or the end.

    `prompts` are texts as the model reads them, but for the start token, which the runtime puts before each;
    `backend` is `cpu` or `gpu`.
    """

    bundle: str
    prompts: tuple[str, ...]
    speculative: bool
    backend: str = "cpu"
    threads: int = 2
    max_tokens: int | None = None


@dataclass(frozen=True)
class StockRun:
    """What came out: the texts without their prompts, seconds spent decoding each, and the share of drafted tokens
    that the target accepted over all of them (None without speculative decoding)."""

    texts: tuple[str, ...]
    seconds: tuple[float, ...]
    acceptance_rate: float | None


def run_stock(
    bundle: Path,
    prompts: Sequence[str],
    *,
    speculative: bool,
    backend: str = "cpu",
    threads: int = 2,
    max_tokens: int | None = None,
) -> StockRun:
    """Decode `prompts` greedily on stock LiteRT-LM.

    With speculative decoding LiteRT-LM finishes the round in which it reaches `max_tokens` or the context's end, so a
    text may go on a little further than without.

    Raises:
        StockRuntimeError: the runtime failed, or did not report an acceptance rate though it should have.
    """
    request = Request(str(bundle), tuple(prompts), speculative, backend, threads, max_tokens)
    with tempfile.TemporaryDirectory(prefix="gemma-mtp-stock-") as folder:
        asked, answered = Path(folder, "request.json"), Path(folder, "result.json")
        asked.write_text(json.dumps(asdict(request)), "utf-8")
        process = subprocess.run(
            [sys.executable, "-m", __name__, str(asked), str(answered)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
        )  # fmt: skip
        if process.returncode or not answered.exists():
            tail = "\n".join(process.stdout.splitlines()[-15:])
            raise StockRuntimeError(f"LiteRT-LM failed on {bundle} (exit code {process.returncode})\n{tail}")
        result = json.loads(answered.read_text("utf-8"))
    rates = _ACCEPTANCE.findall(process.stdout)
    if speculative and not rates:
        raise StockRuntimeError(f"LiteRT-LM ran {bundle} without reporting an acceptance rate; did it draft at all?")
    return StockRun(tuple(result["texts"]), tuple(result["seconds"]), float(rates[-1]) if speculative else None)


def main() -> None:
    """The child process."""
    import time

    import litert_lm

    request = Request(**json.loads(Path(sys.argv[1]).read_text("utf-8")))
    litert_lm.set_min_log_severity(litert_lm.LogSeverity.INFO)
    backend = (
        litert_lm.Backend.GPU() if request.backend == "gpu" else litert_lm.Backend.CPU(thread_count=request.threads)
    )
    greedy = litert_lm.SamplerConfig(top_k=1, top_p=1.0, temperature=1.0)
    texts, seconds = [], []
    with tempfile.TemporaryDirectory(prefix="gemma-mtp-cache-") as cache:
        engine = litert_lm.Engine(
            request.bundle, backend=backend, cache_dir=cache, enable_speculative_decoding=request.speculative
        )
        with engine:
            for prompt in request.prompts:
                with engine.create_session(
                    apply_prompt_template=False, sampler_config=greedy, max_output_tokens=request.max_tokens
                ) as session:
                    session.run_prefill([prompt])
                    started = time.perf_counter()
                    texts.append(session.run_decode().texts[0])
                    seconds.append(time.perf_counter() - started)
    Path(sys.argv[2]).write_text(json.dumps({"texts": texts, "seconds": seconds}), "utf-8")


if __name__ == "__main__":
    main()
