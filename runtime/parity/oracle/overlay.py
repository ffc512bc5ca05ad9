"""A checkpoint with some of its tensors replaced, such as by what a bundle stores of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from ..weights.codes import Codes
from .streaming import WeightSource


@dataclass(frozen=True)
class Rows:
    """A tensor of `count` rows; `read` gives rows `start`..`stop - 1`, float32."""

    count: int
    read: Callable[[int, int], torch.Tensor]

    def at(self, rows: Sequence[int]) -> torch.Tensor:
        """The given rows, stacked."""
        return torch.cat([self.read(row, row + 1) for row in rows])


class Overlay:
    """`source`, but for the tensors in `replaced`, by name; one that `source` has not is added."""

    def __init__(self, source: WeightSource, replaced: Mapping[str, Rows]) -> None:
        self._source, self._replaced = source, replaced

    def has(self, name: str) -> bool:
        return name in self._replaced or self._source.has(name)

    def read(self, name: str) -> torch.Tensor:
        rows = self._replaced.get(name)
        return rows.read(0, rows.count) if rows else self._source.read(name)

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        rows = self._replaced.get(name)
        return rows.read(start, stop) if rows else self._source.read_rows(name, start, stop)

    def read_rows_at(self, name: str, rows: list[int]) -> torch.Tensor:
        replaced = self._replaced.get(name)
        return replaced.at(rows) if replaced else self._source.read_rows_at(name, rows)

    def is_computed(self, name: str) -> bool:
        return name not in self._replaced and self._source.is_computed(name)

    def trained_bits(self, name: str) -> int | None:
        return None if name in self._replaced else self._source.trained_bits(name)

    def codes(self, name: str, rows: Sequence[int]) -> Codes:
        return self._source.codes(name, rows)
