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

_COST_REPETITIONS = 10
_ANY_TOKEN = 1
# Rows that XNNPACK's int8 and int4 kernels compute at a time on ARM64 and AVX2 (its gemm-config.c); more on AVX-512.
ROWS_PER_TILE = 4


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
        """Of a pass over exactly `tokens`: that of a longer one which fills the same tile of rows, if it was measured;
        else between the measured ones by straight line."""
        lengths = sorted(self.passes)
        in_tile = [length for length in lengths if length >= tokens > 1 and tiles(length) == tiles(tokens)]
        if in_tile:
            return self.passes[in_tile[0]]
        return float(np.interp(tokens, lengths, [self.passes[length] for length in lengths]))

    @property
    def tile_step(self) -> tuple[int, int, float] | None:
        """The longest pass in the first tile of rows, the shortest in the second, and how many times it costs as much;
        None where the bundle has not both."""
        first = [length for length in self.passes if length > 1 and tiles(length) == 1]
        second = [length for length in self.passes if tiles(length) == 2]
        if not first or not second:
            return None
        return max(first), min(second), self.passes[min(second)] / self.passes[max(first)]


def tiles(rows: int) -> int:
    """How many kernel tiles a pass over so many rows fills."""
    return -(-rows // ROWS_PER_TILE)


@dataclass(frozen=True)
class Spread:
    """One number, measured several times; `values` are in the order of the repetitions."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def lowest(self) -> float:
        return min(self.values)

    @property
    def highest(self) -> float:
        return max(self.values)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"median": self.median, "lowest": self.lowest, "highest": self.highest, "values": list(self.values)}


@dataclass(frozen=True)
class LengthReport:
    """One draft length.

    Speed-ups are against plain decoding: `measured`, in each repetition against the plain runs of the same repetition;
    `expected` from step costs and acceptance, with this bundle's signatures; `exported`, the same with a verify
    signature of just this length. `verify_tokens` is the length of the pass that the measured rounds took.
    `break_even` is the acceptance rate per drafted token, the same at every position, at which MTP is as fast as plain
    decoding; None where not even 1 is enough.
    """

    draft_tokens: int
    verify_tokens: int
    tokens_per_round: float
    measured: Spread
    expected: float
    exported: float
    break_even: float | None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "draft_tokens": self.draft_tokens,
            "verify_tokens": self.verify_tokens,
            "tokens_per_round": self.tokens_per_round,
            "measured_speedup": self.measured.as_dict(),
            "expected_speedup": self.expected,
            "expected_speedup_with_own_verify": self.exported,
            "break_even_acceptance": self.break_even,
        }


@dataclass(frozen=True)
class BenchmarkReport:
    """`plain` are the runs without MTP, `plain_speed` their tokens a second by repetition; `longest` the runs with the
    longest draft, from which acceptance is taken."""

    costs: StepCosts
    plain: Statistics
    plain_speed: Spread
    longest: Statistics
    lengths: tuple[LengthReport, ...]

    @property
    def best(self) -> LengthReport:
        """The draft length with the highest median of measured speed-ups."""
        return max(self.lengths, key=lambda report: report.measured.median)

    @property
    def rivals(self) -> list[LengthReport]:
        """Other draft lengths whose measured range reaches into that of the best: noise decides among them."""
        best = self.best
        return [other for other in self.lengths if other is not best and other.measured.highest >= best.measured.lowest]

    @property
    def verdict(self) -> str:
        """`pays` if the best length was faster than plain decoding in every repetition, `does not pay` if it was in
        none, `unclear` if noise decides."""
        measured = self.best.measured
        if measured.lowest > 1:
            return "pays"
        return "does not pay" if measured.highest <= 1 else "unclear"

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types, times in seconds."""
        return {
            "repetitions": len(self.plain_speed.values),
            "seconds": {
                "decode": self.costs.decode,
                "draft_step": self.costs.draft,
                "verify_by_tokens": {str(n): cost for n, cost in self.costs.passes.items() if n > 1},
            },
            "second_tile_costs": self.costs.tile_step[2] if self.costs.tile_step else None,
            "plain_tokens_per_second": self.plain_speed.as_dict(),
            "acceptance_rate": self.longest.acceptance_rate,
            "acceptance_by_position": self.longest.acceptance_by_position,
            "draft_lengths": [report.as_dict() for report in self.lengths],
            "verdict": self.verdict,
            "best_draft_tokens": self.best.draft_tokens,
            "as_good_within_noise": [report.draft_tokens for report in self.rivals],
        }


def benchmark(
    model: Model,
    prompts: Sequence[Prompt],
    options: GenerationOptions,
    *,
    repetitions: int = 3,
    on_progress: Callable[[str, str], None] = lambda step, detail: None,
) -> BenchmarkReport:
    """Measure step costs, then decode `prompts` plainly and with every draft length, in turns so that noise is shared.

    Args:
        model: the bundle.
        prompts: all of them make one measurement.
        options: of every answer; `mtp`, `draft_tokens` and `schedule` are chosen here.
        repetitions: measurements of each draft length.
        on_progress: called with what is being measured, and details of it.

    Raises:
        UserError: the bundle cannot draft; or a prompt fills the context.
    """
    longest = model.bundle.contract.max_draft_tokens
    if not longest:
        raise UserError(f"{model.bundle.where}: has no drafter, so there is nothing to compare")
    on_progress("costs of single steps", "")
    costs = measure_costs(model.engine, _COST_REPETITIONS)
    model.reset()
    totals = {length: Statistics() for length in range(longest + 1)}
    speeds: dict[int, list[float]] = {length: [] for length in totals}
    for repetition in range(repetitions):
        # To and fro, so that no length always runs on the warmer machine.
        order = list(totals) if repetition % 2 == 0 else list(reversed(totals))
        runs = {length: Statistics() for length in totals}
        for number, prompt in enumerate(prompts, 1):
            for length in order:
                on_progress(
                    f"repetition {repetition + 1} of {repetitions}, prompt {number} of {len(prompts)}",
                    f"{length} draft tokens" if length else "without MTP",
                )
                chosen = replace(options, mtp=length > 0, draft_tokens=length or None, schedule="constant")
                runs[length].merge(model.stream_prompt(prompt, chosen).finish().statistics)
        for length, run in runs.items():
            speeds[length].append(run.tokens_per_second or 0.0)
            totals[length].merge(run)
    by_position = totals[longest].acceptance_by_position
    reports = tuple(_report(length, costs, by_position, speeds) for length in totals if length)
    return BenchmarkReport(costs, totals[0], Spread(tuple(speeds[0])), totals[longest], reports)


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


def _report(length: int, costs: StepCosts, by_position: list[float], speeds: dict[int, list[float]]) -> LengthReport:
    tokens = 1 + sum(by_position[:length])
    held, own = (length * costs.draft + cost(length + 1) for cost in (costs.held_pass, costs.own_pass))
    pairs = zip(speeds[length], speeds[0], strict=True)
    return LengthReport(
        draft_tokens=length,
        verify_tokens=min(passes for passes in costs.passes if passes > length),
        tokens_per_round=tokens,
        measured=Spread(tuple(speed / plain if plain else 0.0 for speed, plain in pairs)),
        expected=tokens * costs.decode / held,
        exported=tokens * costs.decode / own,
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
