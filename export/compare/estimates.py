"""Numbers measured on some prompts, and how far other prompts of their kind would move them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error; None where one prompt alone says nothing of that."""

    value: float
    error: float | None

    def shown(self, digits: int, *, percent: bool = False) -> str:
        """`62.7 ± 1.1 %`, or `0.0221 ± 0.0004`."""
        scale, unit = (100, " %") if percent else (1, "")
        spread = "" if self.error is None else f" ± {scale * self.error:.{digits}f}"
        return f"{scale * self.value:.{digits}f}{spread}{unit}"


@dataclass(frozen=True)
class Ratio:
    """A sum over prompts divided by another, such as accepted over drafted tokens.

    Tokens of one prompt have much in common, so it is prompts that count as drawn: the errors are those of the ratio
    estimator (Cochran 1977, "Sampling Techniques", section 6.4).

    Attributes:
        over: what is summed above the line, a number for each prompt.
        under: below the line.
    """

    over: tuple[float, ...]
    under: tuple[float, ...]

    @property
    def estimate(self) -> Estimate | None:
        """The ratio; None where nothing is below the line."""
        return Estimate(self._value, _error(self._moves())) if sum(self.under) else None

    def lost(self, base: Ratio) -> Estimate | None:
        """1 - this / `base`, both measured on the same prompts; None where one of the two is nothing."""
        if not (sum(self.over) and sum(base.over)):
            return None
        kept = self._value / base._value
        return Estimate(1 - kept, _error(kept * (self._moves() / self._value - base._moves() / base._value)))

    @property
    def _value(self) -> float:
        return sum(self.over) / sum(self.under)

    def _moves(self) -> np.ndarray:
        """By how much each prompt moves the ratio."""
        return (np.array(self.over) - self._value * np.array(self.under)) / sum(self.under)


def _error(moves: np.ndarray) -> float | None:
    count = len(moves)
    return float(np.sqrt(count / (count - 1) * (moves**2).sum())) if count > 1 else None


def ratio(pairs: Sequence[tuple[float, float]]) -> Ratio:
    """Of `(over, under)` of each prompt."""
    over, under = zip(*pairs, strict=True)
    return Ratio(over, under)
