"""Prompts as the model reads them, each in a session of its own: nothing is rendered."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .child import open_engine, run_child


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
    context_length: int | None = None,
) -> StockRun:
    """Decode `prompts` greedily on stock LiteRT-LM, until a stop token, `max_tokens` or the context's end.

    `prompts` are texts as the model reads them, but for the start token, which the runtime puts before each; `backend`
    is `cpu` or `gpu`; `context_length` is what the app asks for, None for what the bundle does. With speculative
    decoding LiteRT-LM finishes the round in which it reaches `max_tokens` or the context's end, so a text may go on a
    little further than without.

    Raises:
        StockRuntimeError: the runtime failed, or did not report an acceptance rate though it should have.
    """
    request = {
        "bundle": str(bundle),
        "prompts": list(prompts),
        "speculative": speculative,
        "backend": backend,
        "threads": threads,
        "max_tokens": max_tokens,
        "context_length": context_length,
    }
    result, acceptance = run_child("sessions", request)
    return StockRun(tuple(result["texts"]), tuple(result["seconds"]), acceptance)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """In the child process."""
    import time

    import litert_lm

    greedy = litert_lm.SamplerConfig(top_k=1, top_p=1.0, temperature=1.0)
    texts, seconds = [], []
    with tempfile.TemporaryDirectory(prefix="gemma-mtp-cache-") as cache, open_engine(request, cache) as engine:
        for prompt in request["prompts"]:
            with engine.create_session(
                apply_prompt_template=False, sampler_config=greedy, max_output_tokens=request["max_tokens"]
            ) as session:
                session.run_prefill([prompt])
                started = time.perf_counter()
                texts.append(session.run_decode().texts[0])
                seconds.append(time.perf_counter() - started)
    return {"texts": texts, "seconds": seconds}
