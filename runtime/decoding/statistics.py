"""What a run did: tokens, rounds, acceptance by draft position, and where the time went."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


class Stopwatch:
    """Seconds and calls by kind of step."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()

    @contextmanager
    def time(self, kind: str) -> Iterator[None]:
        """Count the block as one call of `kind`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[kind] += time.perf_counter() - started
            self.calls[kind] += 1


@dataclass
class Statistics:
    """Counts of one or more generations.

    Attributes:
        prompt_tokens: tokens of the prompts, `reused_tokens` of them taken from the cache of an earlier turn.
        generated_tokens: tokens of the answers, a final stop token among them.
        rounds: rounds with at least one drafted token.
        drafted_at: how many rounds drafted a token at position i (from 0); `accepted_at` of how many it was accepted.
        target_passes: decode and verify passes.
        seconds: wall time by kind: `prefill`, `decode`, `verify`, `draft`, and `total` of everything.
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    generated_tokens: int = 0
    rounds: int = 0
    drafted_at: Counter[int] = field(default_factory=Counter)
    accepted_at: Counter[int] = field(default_factory=Counter)
    target_passes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def add_round(self, drafted: int, accepted: int) -> None:
        """Count a round that drafted `drafted` tokens, the first `accepted` of them accepted."""
        self.rounds += 1
        self.drafted_at.update(range(drafted))
        self.accepted_at.update(range(accepted))

    def add_time(self, kind: str, seconds: float) -> None:
        self.seconds[kind] = self.seconds.get(kind, 0.0) + seconds

    def merge(self, other: Statistics) -> None:
        """Add the counts of `other`."""
        for name in ("prompt_tokens", "reused_tokens", "generated_tokens", "rounds", "target_passes"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.drafted_at.update(other.drafted_at)
        self.accepted_at.update(other.accepted_at)
        for kind, seconds in other.seconds.items():
            self.add_time(kind, seconds)

    @property
    def drafted(self) -> int:
        """Drafted tokens of all rounds."""
        return self.drafted_at.total()

    @property
    def accepted(self) -> int:
        """Accepted tokens of all rounds."""
        return self.accepted_at.total()

    @property
    def acceptance_rate(self) -> float | None:
        """Share of drafted tokens that the target accepted; None if nothing was drafted."""
        return self.accepted / self.drafted if self.drafted else None

    @property
    def acceptance_by_position(self) -> list[float]:
        """Share of the rounds that drafted position i in which it, and so all before it, was accepted."""
        return [self.accepted_at[position] / count for position, count in sorted(self.drafted_at.items())]

    @property
    def tokens_per_pass(self) -> float | None:
        """Mean generated tokens per target pass: 1 without speculative decoding."""
        return self.generated_tokens / self.target_passes if self.target_passes else None

    @property
    def decode_seconds(self) -> float:
        """Everything but prefill."""
        return self.seconds.get("total", 0.0) - self.seconds.get("prefill", 0.0)

    @property
    def tokens_per_second(self) -> float | None:
        """Generated tokens per second of everything but prefill."""
        return self.generated_tokens / self.decode_seconds if self.decode_seconds > 0 else None

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types; seconds by kind, with `elsewhere` for what no step took."""
        steps = {kind: self.seconds.get(kind, 0.0) for kind in ("prefill", "decode", "verify", "draft")}
        total = self.seconds.get("total", 0.0)
        return {
            "prompt_tokens": self.prompt_tokens,
            "reused_tokens": self.reused_tokens,
            "generated_tokens": self.generated_tokens,
            "target_passes": self.target_passes,
            "rounds": self.rounds,
            "drafted": self.drafted,
            "accepted": self.accepted,
            "acceptance_rate": self.acceptance_rate,
            "acceptance_by_position": self.acceptance_by_position,
            "tokens_per_target_pass": self.tokens_per_pass,
            "seconds": {**steps, "elsewhere": max(0.0, total - sum(steps.values())), "total": total},
            "tokens_per_second": self.tokens_per_second,
            "prefill_tokens_per_second": (self.prompt_tokens - self.reused_tokens) / steps["prefill"]
            if steps["prefill"]
            else None,
        }
