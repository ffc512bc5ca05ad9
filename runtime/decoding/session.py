"""One sequence on one engine: prompts in, rounds of tokens out; the cache is kept from prompt to prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..errors import UserError
from .acceptance import AcceptanceRule
from .engine import Engine
from .schedules import Schedule
from .speculative import Round, speculative_round
from .statistics import Statistics


@dataclass(frozen=True)
class SlottedRound:
    """A round and the slot that its newest token took."""

    slot: int
    round: Round


class Session:
    """Tokens whose cache rows are valid, and the rounds that add to them.

    A prompt that begins with tokens that are in the cache already does not run them again; what the cache holds behind
    them is given up by position.
    """

    def __init__(self, engine: Engine, context_length: int) -> None:
        self.engine = engine
        self.context_length = context_length
        self._cached: list[int] = []
        self._runs = 0

    def reset(self) -> None:
        """Forget everything in the cache."""
        self._cached.clear()
        self._runs += 1

    def check(self, prompt: Sequence[int]) -> None:
        """Check that `prompt` can be run.

        Raises:
            UserError: it is empty, leaves no room for an answer, or holds tokens outside the vocabulary.
        """
        vocabulary = self.engine.contract.vocabulary
        if not prompt:
            raise UserError("the prompt has no tokens; expected at least one")
        wrong = next((token for token in prompt if not 0 <= token < vocabulary), None)
        if wrong is not None:
            raise UserError(
                f"the prompt holds token {wrong}, expected 0 to {vocabulary - 1}; use the model's tokenizer"
            )
        if len(prompt) >= self.context_length:
            raise UserError(
                f"the prompt has {len(prompt)} tokens, but the context holds {self.context_length} with the answer;"
                " shorten it, or export with a longer --context-length"
            )

    def rounds(
        self,
        prompt: Sequence[int],
        rule: AcceptanceRule,
        schedule: Schedule,
        *,
        max_tokens: int | None,
        threshold: float,
        statistics: Statistics,
    ) -> Iterator[SlottedRound]:
        """Run `prompt`, then yield rounds until `max_tokens` or the context's end is reached.

        The first round is a plain decode, as the drafter needs an activation to begin with. No round yields more than
        what may still come.

        Args:
            prompt: passes `check`.
            rule: chooses and accepts tokens.
            schedule: how many tokens to draft; told how each round went.
            max_tokens: None for the context's end.
            threshold: see `speculative_round`.
            statistics: counts are added here.

        Raises:
            RuntimeError: it is continued after another run has begun, which has the cache now.
        """
        self._runs += 1
        run = self._runs
        reused = self._prefill(prompt)
        statistics.prompt_tokens += len(prompt)
        statistics.reused_tokens += reused
        room = self.context_length - len(prompt)
        left = room if max_tokens is None else min(room, max_tokens)
        newest, activation = prompt[-1], None
        while left > 0:
            slot = len(self._cached)
            count = self.engine.fitting_draft(min(schedule.length, left - 1), slot)
            result = speculative_round(self.engine, rule, newest, slot, activation, count, threshold)
            self._cached += [newest, *result.drafted[: result.accepted]]
            statistics.target_passes += 1
            if result.drafted:
                statistics.add_round(len(result.drafted), result.accepted)
                schedule.update(len(result.drafted), result.accepted)
            newest, activation = result.next_token, result.activation
            left -= len(result.tokens)
            yield SlottedRound(slot, result)
            if run != self._runs:
                raise RuntimeError("another answer was begun on this model before this one had ended")

    def _prefill(self, prompt: Sequence[int]) -> int:
        """Bring all tokens of `prompt` but the last into the cache; how many were there already."""
        pairs = enumerate(zip(self._cached, prompt[:-1], strict=False))
        same = next((at for at, (cached, token) in pairs if cached != token), min(len(self._cached), len(prompt) - 1))
        del self._cached[same:]
        if rest := prompt[same:-1]:
            self.engine.prefill(rest, same)
            self._cached += rest
        return same
