"""The drafter's stages: single steps, and the rounds of real answers, replayed on the oracle's caches and activations.

A wrong drafter never changes the text, only what is accepted of its drafts; so the drafts themselves are compared.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...bundle.names import MTP_DRAFTER
from ...decoding.engine import Engine
from ...decoding.generation import Generation
from ..oracle.oracle import DraftStep, Oracle, TargetPass
from ..report.measures import Agreement, Worst, cosine, range_error, size_error
from ..report.report import Stage
from .caches import write_rows
from .target import Setup, never_run


@dataclass(frozen=True)
class Answer:
    """A prompt's answer by the bundle with MTP, and the oracle's pass over prompt and answer."""

    prompt: tuple[int, ...]
    generation: Generation
    truth: TargetPass


def give_oracles_caches(engine: Engine, oracle: Oracle, truth: TargetPass) -> None:
    """Put the oracle's keys and values where the drafter reads them."""
    for layer in oracle.shared_layers().values():
        write_rows(engine, layer, truth.caches[layer])


def drafter_stage(stage: Stage, setup: Setup) -> None:
    """Draft steps at every slot of the probe, each fed what the oracle was fed."""
    engine, probe, limits = setup.engine, setup.probe, setup.limits
    give_oracles_caches(engine, setup.oracle, setup.truth)
    error, cosines, sizes = Worst(), Worst(low=True), Worst()
    agreement = Agreement(limits.near_tie)
    chosen = common = recalled = 0
    clustered = True
    for slot in probe.slots:
        if slot == 0:
            continue  # There is no activation before the first token.
        token, activation = probe.tokens[slot], setup.truth.activations[slot - 1]
        for number, step in enumerate(setup.oracle.draft(setup.truth, token, slot, probe.draft_tokens), 1):
            logits, projected = engine.draft_step(token, activation, slot)
            where = f"slot {slot} ({probe.slots[slot]}), step {number}"
            theirs, ours = _scored(step.logits), _scored(logits)
            clustered = not ours.all()
            both = theirs & ours
            chosen, common = chosen + int(theirs.sum()), common + int(both.sum())
            if both.any():
                error.add(range_error(logits[both], step.dense_logits[both]), where)
            cosines.add(cosine(projected, step.activation), where)
            sizes.add(size_error(projected, step.activation), where)
            best = step.token if clustered else int(step.dense_logits.argmax())
            agreement.add(int(logits.argmax()), best, step.dense_logits, where)
            recalled += int(theirs[step.dense_logits.argmax()])
            token, activation = step.token, step.activation
    stage.at_least("projected activations: cosine", cosines.value or 0.0, limits.draft_activations, cosines.where)
    stage.at_most("projected activations: size", sizes.value or 0.0, limits.draft_activations_size, sizes.where)
    stage.at_most("logits of scored tokens: error", error.value or 0.0, limits.draft_logits, error.where)
    if clustered:
        stage.at_least("chosen clusters in common", common / max(chosen, 1), limits.clusters)
    else:
        stage.skip("chosen clusters in common", "the bundle's drafter has a dense head")
    stage.agrees("same token (top-1)", agreement, limits.draft_top1, limits.draft_wrong)
    stage.holds("every signature was run", never_run(engine, MTP_DRAFTER))
    stage.note("steps compared", float(agreement.total))
    stage.note("best token of all is in a chosen cluster", recalled / max(agreement.total, 1))


def loop_stage(stage: Stage, setup: Setup, answers: list[Answer]) -> None:
    """The rounds of `answers`: drafted tokens on the oracle's caches, and acceptance on the bundle's own."""
    agreement = Agreement(setup.limits.near_tie)
    ours, theirs = Acceptance(), Acceptance()
    by_prompt: list[dict[str, Any]] = []
    for number, answer in enumerate(answers, 1):
        mine, oracles = Acceptance(), Acceptance()
        give_oracles_caches(setup.engine, setup.oracle, answer.truth)
        text = answer.truth.tokens
        for entry in answer.generation.rounds:
            drafted = entry.round.drafted
            if not drafted or entry.slot + 1 >= len(text):
                continue
            steps = setup.oracle.draft(answer.truth, text[entry.slot], entry.slot, len(drafted))
            _compare_round(setup, answer.truth, entry.slot, steps, agreement, f"prompt {number}, slot {entry.slot}")
            # The last round may have been cut by a stop token: what follows is not known.
            known = text[entry.slot + 1 : entry.slot + 1 + len(drafted)]
            mine.add(drafted[: len(known)], known)
            oracles.add([step.token for step in steps][: len(known)], known)
        ours.merge(mine)
        theirs.merge(oracles)
        by_prompt.append({"prompt": number, "bundle": mine.rate, "oracle": oracles.rate})
    if not agreement.total:
        stage.skip("drafted tokens", "no answer was long enough to draft for")
        return
    limits = setup.limits
    stage.agrees("drafts on the oracle's caches: same", agreement, limits.draft_top1, limits.draft_wrong)
    stage.at_most("acceptance rate: difference", abs(ours.rate - theirs.rate), limits.acceptance)
    stage.note("acceptance rate of the bundle", ours.rate)
    stage.note("acceptance rate of the oracle", theirs.rate)
    stage.note("drafted tokens compared", float(agreement.total))
    stage.plots["acceptance_by_position"] = {"bundle": ours.by_position, "oracle": theirs.by_position}
    stage.plots["acceptance_by_prompt"] = by_prompt


class Acceptance:
    """Drafted and accepted tokens by position in the draft; a token is accepted only if all before it are."""

    def __init__(self) -> None:
        self.drafted: Counter[int] = Counter()
        self.accepted: Counter[int] = Counter()

    def add(self, drafted: Any, text: Any) -> None:
        """Count one round: what was drafted, and what the text was."""
        self.drafted.update(range(len(drafted)))
        right = [draft == token for draft, token in zip(drafted, text, strict=True)]
        self.accepted.update(range(right.index(False) if False in right else len(right)))

    def merge(self, other: Acceptance) -> None:
        """Add the counts of `other`."""
        self.drafted.update(other.drafted)
        self.accepted.update(other.accepted)

    @property
    def rate(self) -> float:
        """Share of drafted tokens that were accepted."""
        return self.accepted.total() / max(self.drafted.total(), 1)

    @property
    def by_position(self) -> list[float]:
        """The same for each position."""
        return [self.accepted[position] / count for position, count in sorted(self.drafted.items())]


def _compare_round(
    setup: Setup, truth: TargetPass, slot: int, steps: list[DraftStep], agreement: Agreement, where: str
) -> None:
    """Draft a round as the runtime does, each step fed the one before it, until a token differs."""
    token, activation = truth.tokens[slot], truth.activations[slot - 1]
    for number, step in enumerate(steps, 1):
        logits, activation = setup.engine.draft_step(token, activation, slot)
        token = int(logits.argmax())
        if not agreement.add(token, step.token, step.dense_logits, f"{where}, draft {number}"):
            return


def _scored(logits: np.ndarray) -> np.ndarray:
    """Which tokens got a score `[V]`: a clustered head gives all others one and the same, lowest value."""
    low = logits == logits.min()
    return ~low if low.sum() > 1 else np.ones_like(low)
