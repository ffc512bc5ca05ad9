"""An oracle that computes nothing twice: for many bundles that are compared on the same tokens."""

from __future__ import annotations

from collections.abc import Sequence

from gemma_mtp.runtime.parity.oracle.oracle import DraftStep, Oracle, TargetPass


class RememberingOracle(Oracle):
    """Another oracle's models, with every pass and draft kept by what it was asked for."""

    def __init__(self, oracle: Oracle) -> None:
        self.__dict__.update(vars(oracle))
        self._passes: dict[tuple[tuple[int, ...], tuple[int, ...]], TargetPass] = {}
        self._drafts: dict[tuple[int, int, int, int], tuple[TargetPass, list[DraftStep]]] = {}

    def run(self, tokens: Sequence[int], rows: Sequence[int]) -> TargetPass:
        key = (tuple(tokens), tuple(rows))
        if key not in self._passes:
            self._passes[key] = super().run(tokens, rows)
        return self._passes[key]

    def draft(self, states: TargetPass, newest: int, slot: int, count: int) -> list[DraftStep]:
        key = (id(states), newest, slot, count)
        if key not in self._drafts:
            # `states` is kept, so that no other pass takes its id.
            self._drafts[key] = states, super().draft(states, newest, slot, count)
        return self._drafts[key][1]
