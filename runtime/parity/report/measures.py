"""How far apart two arrays are, in the numbers that parity is judged by."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


def range_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest absolute difference, as a share of the range of `theirs`; infinite where `ours` is not finite."""
    difference = np.abs(ours - theirs)
    span = float(theirs.max() - theirs.min())
    worst = float(difference.max())
    if not np.isfinite(worst):
        return float("inf")
    return worst / span if span > 0 else worst


def mean_range_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Mean absolute difference, as a share of the range of `theirs`."""
    span = float(theirs.max() - theirs.min())
    mean = float(np.abs(ours - theirs).mean())
    return mean / span if span > 0 else mean


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Euclidean norm of the difference over that of `theirs`."""
    return float(np.linalg.norm(ours - theirs) / max(float(np.linalg.norm(theirs)), 1e-30))


def cosine(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Cosine of the angle between two vectors."""
    scale = float(np.linalg.norm(ours) * np.linalg.norm(theirs))
    return float(ours @ theirs) / scale if scale > 0 else 0.0


def size_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """How far the norm of `ours` is from that of `theirs`, as a share of the latter: what a cosine does not see."""
    norm = float(np.linalg.norm(theirs))
    return abs(float(np.linalg.norm(ours)) - norm) / max(norm, 1e-30)


def kl_divergence(theirs: np.ndarray, ours: np.ndarray) -> float:
    """KL(theirs || ours) of the distributions that two rows of logits give, in nats."""
    p, q = _log_softmax(theirs), _log_softmax(ours)
    return float((np.exp(p) * (p - q)).sum())


def top_overlap(ours: np.ndarray, theirs: np.ndarray, count: int) -> float:
    """Share of the `count` largest entries that both rows have in common."""
    return len(set(largest(ours, count)) & set(largest(theirs, count))) / count


def largest(row: np.ndarray, count: int) -> list[int]:
    """Places of the `count` largest entries."""
    return np.argpartition(row, -count)[-count:].tolist()


def _log_softmax(row: np.ndarray) -> np.ndarray:
    shifted = row.astype(np.float64) - row.max()
    return shifted - np.log(np.exp(shifted).sum())


@dataclass
class Worst:
    """The worst of many values, and where it was found; `low` says that small values are the bad ones."""

    low: bool = False
    value: float | None = None
    where: str = ""

    def add(self, value: float, where: str) -> None:
        """Take `value` if it is worse than the worst so far; NaN is worst of all."""
        if self.value is None or np.isnan(value) or (value < self.value if self.low else value > self.value):
            self.value, self.where = value, where


@dataclass
class Agreement:
    """Top-1 choices of two models: how many agree, and of those that do not, how many are near ties.

    A near tie is a difference where the oracle's logits of the two candidates are at most `margin` apart.
    """

    margin: float
    total: int = 0
    same: int = 0
    near_ties: int = 0
    first_difference: str = ""
    widest: Worst = field(default_factory=Worst)

    def add(self, ours: int, best: int, oracle: np.ndarray, where: str) -> bool:
        """Count the choice `ours` against the oracle's `best`, with its logits `[V]`; whether both are the same."""
        self.total += 1
        if ours == best:
            self.same += 1
            return True
        margin = float(oracle[best] - oracle[ours])
        self.near_ties += margin <= self.margin
        self.widest.add(margin, where)
        self.first_difference = self.first_difference or (
            f"{where}: token {ours} instead of {best}, {margin:.3g} below it in the oracle's logits"
        )
        return False

    @property
    def rate(self) -> float:
        """Share of choices that agree."""
        return self.same / self.total if self.total else 1.0

    @property
    def wrong(self) -> float:
        """Share of choices that differ by more than a near tie."""
        return (self.total - self.same - self.near_ties) / self.total if self.total else 0.0
