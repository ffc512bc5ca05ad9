"""One answer in the making: tokens to text as rounds come in, until something ends it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError
from ..fields import MOST_INTEGER, shown
from ..text.stream import TextStream
from .sampling import SamplingOptions
from .session import SlottedRound
from .statistics import Statistics, Stopwatch


@dataclass(frozen=True)
class GenerationOptions:
    """How to generate.

    Attributes:
        max_tokens: end after this many tokens; None goes on to a stop token or the context's end.
        sampling: greedy by default.
        stop_strings: end before the first of these texts, in addition to the bundle's stop tokens.
        mtp: draft tokens; without, every token takes one target pass.
        draft_tokens: how many per round, or to begin with; None takes the bundle's `verify`.
        schedule: `constant` or `heuristic`.
        confidence: draft on only while the drafter gives its best token at least this probability.

    Raises:
        UserError: a value out of range.
    """

    max_tokens: int | None = None
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    stop_strings: tuple[str, ...] = ()
    mtp: bool = True
    draft_tokens: int | None = None
    schedule: str = "constant"
    confidence: float = 0.0

    def __post_init__(self) -> None:
        if self.max_tokens is not None and not 1 <= self.max_tokens <= MOST_INTEGER:
            raise UserError(f"--max-tokens: {shown(self.max_tokens)}, expected 1 or more, at most {MOST_INTEGER}")
        if not 0 <= self.confidence <= 1:
            raise UserError(f"--confidence: {self.confidence}, expected 0 to 1")
        if any(not stop for stop in self.stop_strings):
            raise UserError("--stop: the text is empty, expected at least one character")


class Generation:
    """Iterate for the answer's text, piece by piece; every piece ends with a whole character.

    Attributes:
        tokens: the answer's tokens so far, with the stop token that ended it.
        text: the answer's text so far, without the stop token or stop string that ended it.
        rounds: what was drafted and accepted, round by round.
        finish_reason: `stop_token`, `stop_string`, `max_tokens`, `context` or `cancelled`; None while it runs.
        statistics: counts and times.
    """

    def __init__(
        self,
        rounds: Iterator[SlottedRound],
        statistics: Statistics,
        stream: TextStream,
        clock: Stopwatch,
        *,
        is_stop: Callable[[list[int]], bool],
        max_tokens: int | None,
    ) -> None:
        """Nothing runs before the first piece is asked for.

        Args:
            rounds: from `Session.rounds`, which counts into `statistics`.
            statistics: to fill.
            stream: turns tokens into text.
            clock: the engine's.
            is_stop: whether an answer that ends with these tokens has ended.
            max_tokens: what the rounds were limited to; beside it, only the context ends them.
        """
        self.tokens: list[int] = []
        self.text = ""
        self.rounds: list[SlottedRound] = []
        self.finish_reason: str | None = None
        self.statistics = statistics
        self._incoming = rounds
        self._stream = stream
        self._clock = clock
        self._is_stop = is_stop
        self._max_tokens = max_tokens
        self._cancelled = threading.Event()
        self._pieces = self._timed_pieces()

    def __iter__(self) -> Iterator[str]:
        return self._pieces

    def cancel(self) -> None:
        """End after the round that is running; may be called from another thread."""
        self._cancelled.set()

    def finish(self) -> Generation:
        """Run to the end."""
        for _ in self:
            pass
        return self

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types."""
        return {
            "text": self.text,
            "tokens": self.tokens,
            "finish_reason": self.finish_reason,
            "rounds": [
                {"slot": entry.slot, "drafted": list(entry.round.drafted), "accepted": entry.round.accepted}
                for entry in self.rounds
            ],
            "statistics": self.statistics.as_dict(),
        }

    def _timed_pieces(self) -> Iterator[str]:
        """The pieces; time counts while one is made, not while the caller has it."""
        before, pieces = dict(self._clock.seconds), self._make_pieces()
        try:
            while True:
                started = time.perf_counter()
                try:
                    piece = next(pieces, None)
                finally:
                    self.statistics.add_time("total", time.perf_counter() - started)
                if piece is None:
                    return
                self.text += piece
                yield piece
        finally:
            self.finish_reason = self.finish_reason or "cancelled"
            for kind, seconds in self._clock.seconds.items():
                self.statistics.add_time(kind, seconds - before.get(kind, 0.0))

    def _make_pieces(self) -> Iterator[str]:
        while self.finish_reason is None:
            if self._cancelled.is_set():
                self.finish_reason = "cancelled"
            elif (slotted := next(self._incoming, None)) is None:
                reached = len(self.tokens) == self._max_tokens
                self.finish_reason = "max_tokens" if reached else "context"
            else:
                self.rounds.append(slotted)
                yield from self._text_of(slotted)
        if rest := self._stream.finish():
            yield rest

    def _text_of(self, slotted: SlottedRound) -> Iterator[str]:
        for token in slotted.round.tokens:
            self.tokens.append(token)
            self.statistics.generated_tokens += 1
            if self._is_stop(self.tokens):
                self.finish_reason = "stop_token"
                return
            if piece := self._stream.push(token):
                yield piece
            if self._stream.stopped:
                self.finish_reason = "stop_string"
                return
