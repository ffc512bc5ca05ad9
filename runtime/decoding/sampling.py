"""Next-token distributions: temperature, top-k and top-p, in this order, as in transformers' logits warpers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import UserError

# Logits divided by much less overflow.
_LEAST_TEMPERATURE = 1e-6


@dataclass(frozen=True)
class SamplingOptions:
    """How to choose tokens. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 keep every token.

    Raises:
        UserError: a value out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature != 0 and not _LEAST_TEMPERATURE <= self.temperature <= 1 / _LEAST_TEMPERATURE:
            raise UserError(
                f"--temperature: {self.temperature}, expected 0 (greedy), or {_LEAST_TEMPERATURE:g} to"
                f" {1 / _LEAST_TEMPERATURE:g}"
            )
        if self.top_k < 0:
            raise UserError(f"--top-k: {self.top_k}, expected 0 (all tokens) or more")
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top-p: {self.top_p}, expected more than 0, at most 1 (all tokens)")
        if self.seed < 0:
            raise UserError(f"--seed: {self.seed}, expected 0 or more")

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is always taken."""
        return self.temperature == 0


@dataclass(frozen=True)
class Distribution:
    """Probabilities `[n]` float64 of the tokens `ids` `[n]`, which ascend; every other token has probability 0."""

    ids: np.ndarray
    probabilities: np.ndarray

    def of(self, ids: np.ndarray | int) -> np.ndarray:
        """Probability of each of `ids`."""
        at = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        return np.where(self.ids[at] == ids, self.probabilities[at], 0.0)

    def draw(self, generator: np.random.Generator) -> int:
        """One token, by inversion of the cumulative distribution."""
        cumulative = np.cumsum(self.probabilities)
        at = np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right")
        return int(self.ids[min(at, len(self.ids) - 1)])

    def without(self, other: Distribution) -> Distribution:
        """The normalised positive part of `self - other`; `self` where that is empty, as of equal distributions."""
        rest = np.maximum(self.probabilities - other.of(self.ids), 0.0)
        total = rest.sum()
        return Distribution(self.ids, rest / total) if total > 0 else self


def distribution(logits: np.ndarray, options: SamplingOptions) -> Distribution:
    """The distribution that `logits` `[V]` give under `options`, which must not be greedy.

    Top-p keeps the fewest most probable tokens whose probabilities reach `top_p` together.
    """
    ids = np.arange(len(logits))
    if 0 < options.top_k < len(logits):
        kept = np.argpartition(logits, len(logits) - options.top_k)[-options.top_k :]
        ids = np.sort(kept)
    scores = logits[ids].astype(np.float64) / options.temperature
    probabilities = np.exp(scores - scores.max())
    probabilities /= probabilities.sum()
    if options.top_p < 1:
        order = np.argsort(-probabilities, kind="stable")
        before = np.cumsum(probabilities[order]) - probabilities[order]
        kept = np.sort(order[before < options.top_p])
        ids, probabilities = ids[kept], probabilities[kept] / probabilities[kept].sum()
    return Distribution(ids, probabilities)


def confidence(logits: np.ndarray) -> float:
    """Probability of the most probable token under the plain softmax of `logits` `[V]`."""
    return float(1.0 / np.exp(logits.astype(np.float64) - logits.max()).sum())
