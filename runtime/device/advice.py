"""Which draft length to export for a phone, from how it ran with one length and how often drafts are accepted.

A round with k drafts yields t(k) = 1 + c_1 + ... + c_k tokens (c_i: share of rounds in which drafts 1 to i are right,
which depends on the texts, not on the machine) and costs k draft steps and a verify pass. If MTP was r times as fast
with k0 drafts, such a round cost t(k0) / r decodes there. How it splits is not seen from outside, so the draft step's
share is taken from this machine, and a pass is taken to cost as many decodes as it fills tiles of four rows, as XNNPACK
computes them on ARM64: more than it costs where memory is the limit, so longer drafts are not promised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..benchmark import BenchmarkReport, tiles


@dataclass(frozen=True)
class Prediction:
    """What `benchmark` measured on this machine: the speed-up with the bundle's draft length, `expected` of step costs
    and acceptance; acceptance by position; a draft step in decodes."""

    measured: float
    expected: float
    acceptance_by_position: tuple[float, ...]
    draft_step: float


@dataclass(frozen=True)
class Advice:
    """The draft length with the highest estimate on the phone, 0 for none; all estimates by length."""

    draft_tokens: int
    estimates: dict[int, float]


def predict(report: BenchmarkReport, draft_tokens: int) -> Prediction:
    """From a benchmark on this machine; `draft_tokens` is what LiteRT-LM drafts with the bundle."""
    row = next(row for row in report.lengths if row.draft_tokens == draft_tokens)
    step = report.costs.draft / report.costs.decode
    return Prediction(row.measured.median, row.expected, tuple(report.longest.acceptance_by_position), step)


def advise(acceptance_by_position: Sequence[float], draft_step: float, draft_tokens: int, ratio: float) -> Advice:
    """Estimate every draft length that acceptance is known for.

    Args:
        acceptance_by_position: c_i, see above.
        draft_step: in decodes, on this machine.
        draft_tokens: of the bundle that ran.
        ratio: how many times as fast as without MTP it was on the phone.
    """
    yields = [1 + sum(acceptance_by_position[:length]) for length in range(len(acceptance_by_position) + 1)]
    round_cost = yields[draft_tokens] / max(ratio, 1e-6)
    # Nothing costs less than nothing: where draft steps of this machine's would eat the whole round, they are cheaper.
    step = min(draft_step, 0.5 * round_cost / draft_tokens)
    tile = (round_cost - draft_tokens * step) / tiles(draft_tokens + 1)
    estimates = {n: yields[n] / (n * step + tile * tiles(n + 1)) for n in range(1, len(yields))}
    best = max(estimates, key=lambda length: estimates[length])
    return Advice(best if estimates[best] > 1 else 0, estimates)
