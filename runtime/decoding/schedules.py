"""How many tokens to draft in the next round."""

from __future__ import annotations

from typing import Protocol

from ..errors import UserError


class Schedule(Protocol):
    """`length` is the next round's draft length; `update` tells how a round went."""

    @property
    def length(self) -> int: ...

    def update(self, drafted: int, accepted: int) -> None: ...


class ConstantSchedule:
    """Always the same length; 0 never drafts."""

    def __init__(self, length: int) -> None:
        self.length = length

    def update(self, drafted: int, accepted: int) -> None:
        """A constant learns nothing."""


class HeuristicSchedule:
    """Two more after a round whose drafts were all accepted, one fewer after any other; from 1 to `longest`.

    The rule of transformers' `num_assistant_tokens_schedule="heuristic"`.
    """

    def __init__(self, start: int, longest: int) -> None:
        self.length = min(start, longest)
        self._longest = longest

    def update(self, drafted: int, accepted: int) -> None:
        change = 2 if accepted == drafted else -1
        self.length = min(max(self.length + change, 1), self._longest)


SCHEDULES = ("constant", "heuristic")


def schedule_for(name: str, draft_tokens: int | None, *, default: int, longest: int) -> Schedule:
    """The schedule called `name`, starting at `draft_tokens` (`default` where that is None).

    Raises:
        UserError: a length that the bundle does not hold, or an unknown name.
    """
    start = default if draft_tokens is None else draft_tokens
    if not 1 <= start <= longest:
        if not longest:
            raise UserError(f"--num-draft-tokens: {start}, but the bundle has no drafter; use --no-mtp")
        raise UserError(f"--num-draft-tokens: {start}, but the bundle holds 1 to {longest}; export it with more")
    if name == "constant":
        return ConstantSchedule(start)
    if name == "heuristic":
        return HeuristicSchedule(start, longest)
    raise UserError(f"--schedule: {name!r} is unknown, expected one of {', '.join(SCHEDULES)}")
