"""Where to look: a token sequence as long as the context, and the positions in it where models go wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...decoding.engine import Engine


@dataclass(frozen=True)
class Probe:
    """A sequence to run and the slots to look at.

    `tokens` reach past the context by the longest draft, as LiteRT-LM's last round does, where the caches do. `slots`
    maps each slot to why it matters; a pass of `draft_tokens` + 1 tokens from any of them stays within `tokens`, or
    runs over the caches' end.
    """

    tokens: tuple[int, ...]
    slots: dict[int, str]
    draft_tokens: int
    whole_context: bool

    @property
    def rows(self) -> list[int]:
        """Every row that is compared: each slot and the draft after it."""
        ahead = range(self.draft_tokens + 1)
        return sorted({row for slot in self.slots for row in (slot + step for step in ahead) if row < len(self.tokens)})


def make_probe(engine: Engine, texts: Sequence[Sequence[int]], context: int, window: int, limit: int | None) -> Probe:
    """The probe of a bundle.

    Args:
        engine: the bundle's.
        texts: tokens of prompts and their answers; repeated one after the other until the context is full.
        context: the bundle's context length.
        window: the target's sliding window.
        limit: look at no slot from here on; None for the whole context.
    """
    draft_tokens = engine.contract.default_draft_tokens
    length = min(context, limit or context)
    tokens = _fill(texts, min(length + draft_tokens, engine.contract.slots))
    slots = {0: "the first token", 1: "the first draft"}

    def around(border: int, what: str) -> None:
        for slot, side in ((border - 1, "just under"), (border, "at"), (border + 1, "just over")):
            if 0 <= slot < length:
                slots.setdefault(slot, f"{side} {what}")

    around(window, "the sliding window")
    borders = [last for _, _, last in engine.prefill_plan(length - 1, 0)[:-1]]
    around(borders[0] if borders else length - 1, "the first prefill chunk's end")
    around(borders[-1] if borders else length - 1, "the last prefill chunk's beginning")
    # The window of a draft that begins before it and ends behind it.
    around(window - draft_tokens // 2, "the middle of a draft over the window")
    if length == context:
        slots.setdefault(context - 1 - draft_tokens, "the last whole round before the context's end")
        slots.setdefault(context - 1, "the context's end")
    return Probe(tuple(tokens), dict(sorted(slots.items())), draft_tokens, length == context)


def _fill(texts: Iterable[Sequence[int]], length: int) -> list[int]:
    pool = [token for text in texts for token in text]
    return (pool * (length // len(pool) + 1))[:length]
