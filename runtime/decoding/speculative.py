"""One speculative round: draft from one constant position, verify in one target pass, accept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .acceptance import AcceptanceRule, Draft
from .engine import TargetRows
from .sampling import confidence


class Steps(Protocol):
    """What a round needs of an engine; see `Engine` for the meaning of each."""

    def draft_step(self, token: int, activation: np.ndarray, slot: int) -> tuple[np.ndarray, np.ndarray]: ...

    def verify(self, tokens: list[int], slot: int) -> TargetRows: ...

    def decode(self, token: int, slot: int) -> TargetRows: ...


@dataclass(frozen=True)
class Round:
    """What a round gave: the drafted tokens, how many of them stay, the target's own token after those, and the
    target's activation `[D]` after the last token that is in the cache now."""

    drafted: tuple[int, ...]
    accepted: int
    next_token: int
    activation: np.ndarray | None

    @property
    def tokens(self) -> tuple[int, ...]:
        """The new tokens, at least one."""
        return (*self.drafted[: self.accepted], self.next_token)


def speculative_round(
    steps: Steps,
    rule: AcceptanceRule,
    newest: int,
    slot: int,
    activation: np.ndarray | None,
    count: int,
    threshold: float = 0.0,
) -> Round:
    """Draft up to `count` tokens after `newest`, which is not in the cache yet and takes `slot`; verify them.

    The drafter attends to slots 0..slot-1 at position slot-1 in every step, and is fed its own tokens and projected
    activations. Drafting stops before a step whose best token has a probability under `threshold`; that is decided
    before a token is drawn, so it biases no sample. Then one target pass runs `newest` and the drafts in slots
    slot..slot+k. Rows of rejected drafts stay in the cache behind the new end, where later steps overwrite them.
    """
    drafts: list[Draft] = []
    token, state = newest, activation
    while len(drafts) < count and state is not None:
        logits, state = steps.draft_step(token, state, slot)
        if threshold and confidence(logits) < threshold:
            break
        drafts.append(rule.draft(logits))
        token = drafts[-1].token

    drafted = tuple(draft.token for draft in drafts)
    rows = steps.verify([newest, *drafted], slot) if drafts else steps.decode(newest, slot)
    accepted, next_token = rule.accept(drafts, rows.logits)
    return Round(drafted, accepted, next_token, None if rows.activations is None else rows.activations[accepted])
