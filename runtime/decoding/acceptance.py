"""Acceptance rules: which drafted tokens stay, and which token follows them. Both leave the target's output as it is.

Sampling: Leviathan et al., "Fast Inference from Transformers via Speculative Decoding" (2023), algorithm 1; Chen et
al., "Accelerating Large Language Model Decoding with Speculative Sampling" (2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .sampling import Distribution, SamplingOptions, distribution


@dataclass(frozen=True)
class Draft:
    """A drafted token and the distribution it was drawn from; None where it was the drafter's best."""

    token: int
    drawn_from: Distribution | None = None


class AcceptanceRule(Protocol):
    """How tokens are chosen, drafted and accepted; `logits` are `[V]`, or `[T, V]` for T tokens."""

    def choose(self, logits: np.ndarray) -> int:
        """The target's own next token."""
        ...

    def draft(self, logits: np.ndarray) -> Draft:
        """The drafter's next token."""
        ...

    def accept(self, drafts: Sequence[Draft], logits: np.ndarray) -> tuple[int, int]:
        """How many of `drafts` stay, and the target's token after them.

        Row i of `logits` `[len(drafts) + 1, V]` is what the target says before draft i; the last row follows all.
        """
        ...


class GreedyRule:
    """Exact match: a draft stays while it is the target's most probable token."""

    def choose(self, logits: np.ndarray) -> int:
        return int(logits.argmax())

    def draft(self, logits: np.ndarray) -> Draft:
        return Draft(int(logits.argmax()))

    def accept(self, drafts: Sequence[Draft], logits: np.ndarray) -> tuple[int, int]:
        own = logits.argmax(axis=-1)
        right = (draft.token == token for draft, token in zip(drafts, own[:-1], strict=True))
        accepted = next((index for index, same in enumerate(right) if not same), len(drafts))
        return accepted, int(own[accepted])


class SamplingRule:
    """Lossless sampling: with p the target's and q the drafter's distribution, both after the same filters, a draft x
    stays with probability min(1, p(x)/q(x)); the first that does not is replaced by a draw from max(p - q, 0)."""

    def __init__(self, options: SamplingOptions) -> None:
        self._options = options
        self._generator = np.random.default_rng(options.seed)

    def choose(self, logits: np.ndarray) -> int:
        return distribution(logits, self._options).draw(self._generator)

    def draft(self, logits: np.ndarray) -> Draft:
        drafter = distribution(logits, self._options)
        return Draft(drafter.draw(self._generator), drafter)

    def accept(self, drafts: Sequence[Draft], logits: np.ndarray) -> tuple[int, int]:
        for index, draft in enumerate(drafts):
            target, drafter = distribution(logits[index], self._options), draft.drawn_from
            if drafter is None:
                raise ValueError("a draft that was not drawn from a distribution cannot be accepted by chance")
            if self._generator.random() * drafter.of(draft.token) >= target.of(draft.token):
                return index, target.without(drafter).draw(self._generator)
        return len(drafts), self.choose(logits[len(drafts)])


def rule_for(options: SamplingOptions) -> AcceptanceRule:
    """The rule that `options` ask for."""
    return GreedyRule() if options.greedy else SamplingRule(options)
