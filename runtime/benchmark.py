"""Does MTP pay on this machine, and with which draft length?

A round with k drafted tokens costs k draft steps and one verify pass, and yields 1 + c_1 + ... + c_k tokens, where
c_i is the share of rounds in which drafts 1 to i are all accepted. Plain decoding costs one decode a token. The
speed-up is the ratio (Leviathan et al. 2023, theorem 3.8, with measured instead of constant acceptance).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .decoding.engine import Engine
from .decoding.generation import GenerationOptions
from .decoding.statistics import Statistics
from .errors import UserError
from .model import Model
from .text.prompts import Prompt

# Below this gain a machine's noise decides.
_WORTH_IT = 1.02
_ANY_TOKEN = 1


@dataclass(frozen=True)
class StepCosts:
    """Seconds of one step: `passes` of a target pass over T tokens by T (1 is decode), `draft` of one draft step."""

    passes: dict[int, float]
    draft: float

    @property
    def decode(self) -> float:
        return self.passes[1]

    def held_pass(self, tokens: int) -> float:
        """Of the shortest pass in the bundle that takes `tokens`."""
        return self.passes[min(length for length in self.passes if length >= tokens)]

    def own_pass(self, tokens: int) -> float:
        """Of a pass over exactly `tokens`, between the measured ones by straight line."""
        lengths = sorted(self.passes)
        return float(np.interp(tokens, lengths, [self.passes[length] for length in lengths]))


@dataclass(frozen=True)
class LengthReport:
    """One draft length.

    Speed-ups are against plain decoding: `expected` with this bundle's signatures, `exported` with a verify signature
    of just this length, `measured` in a run. `break_even` is the acceptance rate per drafted token, the same at every
    position, at which MTP is as fast as plain decoding; None where not even 1 is enough.
    """

    draft_tokens: int
    tokens_per_round: float
    expected: float
    exported: float
    measured: float
    break_even: float | None


@dataclass(frozen=True)
class BenchmarkReport:
    """`plain` are the runs without MTP; `longest` those with the longest draft, from which acceptance is taken."""

    costs: StepCosts
    plain: Statistics
    longest: Statistics
    lengths: tuple[LengthReport, ...]

    @property
    def best(self) -> LengthReport | None:
        """The draft length to export; None if none is worth it."""
        best = max(self.lengths, key=lambda report: report.exported)
        return best if best.exported >= _WORTH_IT else None

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types, times in seconds."""
        best = self.best
        return {
            "seconds": {
                "decode": self.costs.decode,
                "draft_step": self.costs.draft,
                "verify_by_tokens": {str(n): cost for n, cost in self.costs.passes.items() if n > 1},
            },
            "plain_tokens_per_second": self.plain.tokens_per_second,
            "acceptance_rate": self.longest.acceptance_rate,
            "acceptance_by_position": self.longest.acceptance_by_position,
            "draft_lengths": [
                {
                    "draft_tokens": report.draft_tokens,
                    "tokens_per_round": report.tokens_per_round,
                    "expected_speedup": report.expected,
                    "expected_speedup_with_own_verify": report.exported,
                    "measured_speedup": report.measured,
                    "break_even_acceptance": report.break_even,
                }
                for report in self.lengths
            ],
            "export_with_draft_tokens": best.draft_tokens if best else None,
        }


def benchmark(
    model: Model,
    prompts: Sequence[Prompt],
    options: GenerationOptions,
    *,
    repetitions: int = 10,
    on_progress: Callable[[str], None] = lambda what: None,
) -> BenchmarkReport:
    """Measure step costs, then decode `prompts` plainly and with every draft length, in turns so that noise is shared.

    Raises:
        UserError: the bundle cannot draft; or a prompt fills the context.
    """
    longest = model.bundle.contract.max_draft_tokens
    if not longest:
        raise UserError(f"{model.bundle.where}: has no drafter, so there is nothing to compare")
    on_progress("costs of single steps")
    costs = measure_costs(model.engine, repetitions)
    model.reset()
    lengths = range(longest + 1)
    runs = {length: Statistics() for length in lengths}
    for number, prompt in enumerate(prompts, 1):
        for length in lengths:
            on_progress(f"prompt {number} of {len(prompts)}, {f'{length} draft tokens' if length else 'without MTP'}")
            chosen = replace(options, mtp=length > 0, draft_tokens=length or None, schedule="constant")
            runs[length].merge(model.stream_prompt(prompt, chosen).finish().statistics)
    by_position = runs[longest].acceptance_by_position
    reports = tuple(_report(length, costs, by_position, runs) for length in lengths if length)
    return BenchmarkReport(costs, runs[0], runs[longest], reports)


def measure_costs(engine: Engine, repetitions: int) -> StepCosts:
    """Medians over `repetitions`, steps in turns. Overwrites the cache from its middle on."""
    slot, tokens = engine.contract.slots // 2, [step.tokens for step in engine.contract.verifies]
    rows = engine.decode(_ANY_TOKEN, slot)
    if rows.activations is None:
        raise UserError("decode does not return activations, which the drafter takes")
    activation = rows.activations[0]
    steps: dict[int, Callable[[], object]] = {0: lambda: engine.draft_step(_ANY_TOKEN, activation, slot)}
    steps[1] = lambda: engine.decode(_ANY_TOKEN, slot)
    steps |= {n: lambda n=n: engine.verify([_ANY_TOKEN] * n, slot) for n in tokens}
    seconds: dict[int, list[float]] = {key: [] for key in steps}
    for _ in range(repetitions + 1):
        for key, step in steps.items():
            started = time.perf_counter()
            step()
            seconds[key].append(time.perf_counter() - started)
    median = {key: statistics.median(times[1:]) for key, times in seconds.items()}  # The first one warms up.
    return StepCosts({key: cost for key, cost in median.items() if key}, median[0])


def _report(length: int, costs: StepCosts, by_position: list[float], runs: dict[int, Statistics]) -> LengthReport:
    tokens = 1 + sum(by_position[:length])
    held, own = (length * costs.draft + cost(length + 1) for cost in (costs.held_pass, costs.own_pass))
    plain, measured = runs[0].tokens_per_second, runs[length].tokens_per_second
    return LengthReport(
        draft_tokens=length,
        tokens_per_round=tokens,
        expected=tokens * costs.decode / held,
        exported=tokens * costs.decode / own,
        measured=measured / plain if measured and plain else 0.0,
        break_even=break_even(length, own / costs.decode),
    )


def break_even(length: int, cost: float) -> float | None:
    """The acceptance rate a with 1 + a + ... + a^length = `cost`, a round's cost in decodes; None if there is none."""
    if cost > length + 1:
        return None
    if cost <= 1:
        return 0.0
    roots = np.roots([*[1.0] * length, 1.0 - cost])
    return float(next(root.real for root in roots if abs(root.imag) < 1e-9 and 0 <= root.real <= 1 + 1e-9))
