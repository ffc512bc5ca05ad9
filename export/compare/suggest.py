"""The smallest mix of formats within bounds: searched by what each part costs alone, then measured on a bundle.

What a part costs alone is estimated by transformers' models on weights rounded to the format and opened again, with
float activations: the KL divergence from the float model, and how many first drafts the target would take. Costs of
parts add up nearly (on the shipped pair, MLP and per-layer embedder in int4: 0.0153 and 0.0029 nats apart, 0.0181
together). The smallest mix whose sums are within the bounds is exported and measured as every recipe is; if it passes a
bound after all, what it cost beyond its sums is remembered and the next one is tried.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...quantize.formats import INT8, Storage, storage
from ...quantize.price import KnownPrice
from ...quantize.recipes import Recipe, read_recipe
from ...runtime.errors import UserError
from ...runtime.parity.oracle.oracle import Oracle
from ...runtime.parity.report.measures import kl_divergence
from ...runtime.units import size
from ..graphs.plan import plan_models
from ..models.kv_cache import kv_signature
from .measure import BASE, Comparison, Price, Progress
from .parts import Part, parts_of, stored_alone
from .simulate import simulated

# From where the search starts, and what it may lower a part to.
START, NARROWER = INT8, ("int4", "int2")
# Positions of a prompt that are looked at: of a large vocabulary each takes a megabyte.
_POSITIONS = 48
_MOST_BUNDLES = 4


@dataclass(frozen=True)
class Trial:
    """A part in a narrower format, all else in float32.

    `saved` are bytes, against START; `kl` in nats, `lost` the share of float32's right first drafts.
    """

    part: Part
    stored_as: Storage
    saved: int
    kl: float
    lost: float

    @property
    def why(self) -> str:
        """For people."""
        return f"alone {self.kl:.4f} nats and {self.lost:.1%} of first drafts, for {size(self.saved)}"


@dataclass(frozen=True)
class Mix:
    """Trials that are made together; every other part stays in START."""

    trials: tuple[Trial, ...]

    @property
    def saved(self) -> int:
        return sum(trial.saved for trial in self.trials)

    @property
    def kl(self) -> float:
        return sum(trial.kl for trial in self.trials)

    @property
    def lost(self) -> float:
        return sum(trial.lost for trial in self.trials)

    def lowers_all_of(self, other: Mix) -> bool:
        """Whether no part is wider than in `other`."""
        bits = {trial.part: trial.stored_as.format.bits for trial in self.trials}
        return all(bits.get(t.part, START.format.bits) <= t.stored_as.format.bits for t in other.trials)

    def recipe(self, parts: Sequence[Part]) -> Recipe:
        """Its rules, in the order of `parts`."""
        chosen = {trial.part: trial for trial in self.trials}
        rules = [
            part.rule(chosen[part].stored_as, chosen[part].why) if part in chosen else part.rule(START)
            for part in parts
        ]
        return Recipe("suggested", "the smallest mix within bounds on the prompts that it was measured on", (*rules,))


@dataclass(frozen=True)
class Suggestion:
    """What was tried: parts alone, then mixes on bundles, the last of them within bounds if `found`."""

    parts: tuple[Part, ...]
    trials: tuple[Trial, ...]
    base: Price
    tried: tuple[tuple[Mix, Price], ...]
    found: bool

    def recipe(self, pair: str) -> Recipe | None:
        """What was found, with its measured price on `pair`; None if nothing was."""
        if not self.found:
            return None
        mix, price = self.tried[-1]
        kl, lost = price.kl.estimate, price.acceptance_loss(self.base)
        known = KnownPrice(pair, kl.value if kl else 0.0, lost.value if lost else 0.0)
        return replace(mix.recipe(self.parts), price=known)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        trials = [
            {
                "part": trial.part.name,
                "format": trial.stored_as.format.name,
                "kl": trial.kl,
                "first_drafts_lost": trial.lost,
                "saved_bytes": trial.saved,
            }
            for trial in self.trials
        ]
        mixes = [{trial.part.name: trial.stored_as.format.name for trial in mix.trials} for mix, _ in self.tried]
        return {"estimated_in_torch": trials, "start": START.name, "tried": mixes, "found": self.found}


@dataclass(frozen=True)
class Bounds:
    """What may be lost: KL divergence in nats, and a share of float32's accepted drafts."""

    kl: float
    acceptance_loss: float


def suggest(
    comparison: Comparison, tokens: Sequence[Sequence[int]], bounds: Bounds, on_progress: Progress
) -> Suggestion:
    """Search, then measure; at most `_MOST_BUNDLES` mixes are exported.

    Args:
        comparison: what everything is measured on.
        tokens: of its prompts.
        bounds: for the bundle's measured numbers.
        on_progress: told what is being done.

    Raises:
        UserError: as `Comparison.price`.
    """
    options, pair = comparison.options, comparison.pair
    kv = kv_signature(pair.target_config, pair.drafter_config, options.slots, options.kv_cache)
    models = plan_models(pair, kv, options)
    parts = parts_of(models)
    base = comparison.price(read_recipe(BASE), on_progress)  # First, as it refuses prompts that cannot be run.
    on_progress("float model", "")
    truth = [_Truth.of(comparison.oracle, each) for each in tokens if len(each) > 1]
    trials = []
    for part in parts:
        _, start = stored_alone(models, part, START, options.backends)
        for name in NARROWER:
            on_progress(part.name, name)
            try:
                stored, count = stored_alone(models, part, storage(name), options.backends)
            except UserError:  # Such as rows that fill no whole bytes.
                continue
            kl, lost = _cost(simulated(comparison.oracle, models, stored), truth)
            trials.append(Trial(part, storage(name), start - count, kl, lost))
    tried: list[tuple[Mix, Price]] = []
    for _ in range(_MOST_BUNDLES):
        mix = smallest(parts, trials, bounds, tried)
        if mix is None:
            break
        price = comparison.price(mix.recipe(parts), on_progress, float_drafter=False)
        tried.append((mix, price))
        if within(price, base, bounds):
            return Suggestion((*parts,), (*trials,), base, (*tried,), found=True)
    return Suggestion((*parts,), (*trials,), base, (*tried,), found=False)


def within(price: Price, base: Price, bounds: Bounds) -> bool:
    """Whether the measured numbers, whatever their errors, are within `bounds`."""
    kl, lost = price.kl.estimate, price.acceptance_loss(base)
    return kl is not None and kl.value <= bounds.kl and (lost is None or lost.value <= bounds.acceptance_loss)


def smallest(
    parts: Sequence[Part], trials: Sequence[Trial], bounds: Bounds, tried: Sequence[tuple[Mix, Price]]
) -> Mix | None:
    """The mix that saves most within bounds; None where even START everywhere has been tried."""
    # What bundles cost beyond their sums: activations are quantized there, and costs do not quite add up.
    beyond = max((kl.value - mix.kl for mix, price in tried if (kl := price.kl.estimate)), default=0.0)
    choices = [[None, *(trial for trial in trials if trial.part == part)] for part in parts]
    best: Mix | None = None
    for chosen in itertools.product(*choices):
        mix = Mix(tuple(trial for trial in chosen if trial))
        if best and mix.saved <= best.saved:
            continue
        fits = mix.kl + max(beyond, 0.0) <= bounds.kl and mix.lost <= bounds.acceptance_loss
        if (fits or not mix.trials) and not any(mix.lowers_all_of(worse) for worse, _ in tried):
            best = mix
    return best


@dataclass(frozen=True)
class _Truth:
    """A prompt on the float model: the positions that are looked at, logits `[V]` there, and which first drafts are
    right."""

    tokens: Sequence[int]
    rows: list[int]
    logits: list[np.ndarray]
    right: int

    @classmethod
    def of(cls, oracle: Oracle, tokens: Sequence[int]) -> _Truth:
        # The drafter needs a row to begin with.
        rows = sorted({int(row) for row in np.linspace(1, len(tokens) - 1, min(_POSITIONS, len(tokens) - 1))})
        logits, right = _run(oracle, tokens, rows)
        return cls(tokens, rows, logits, right)


def _run(oracle: Oracle, tokens: Sequence[int], rows: Sequence[int]) -> tuple[list[np.ndarray], int]:
    """Logits at `rows`, and at how many of them the first draft is what the target itself finds most probable."""
    states = oracle.run(tokens, rows)
    logits = [states.logits_at(row) for row in rows]
    drafts = [oracle.draft(states, tokens[row], row, 1)[0].token for row in rows]
    return logits, sum(draft == int(found.argmax()) for draft, found in zip(drafts, logits, strict=True))


def _cost(oracle: Oracle, truth: Sequence[_Truth]) -> tuple[float, float]:
    """KL divergence from the float model, the mean over positions, and the share of its right first drafts lost: at
    least none, as drafts that are gained by chance must not pay for others."""
    divergence, right = 0.0, 0
    for known in truth:
        logits, found = _run(oracle, known.tokens, known.rows)
        divergence += sum(map(kl_divergence, known.logits, logits))
        right += found
    positions, was_right = sum(len(known.rows) for known in truth), sum(known.right for known in truth)
    return divergence / max(1, positions), max(0.0, 1 - right / max(1, was_right))
