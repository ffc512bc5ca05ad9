"""What a verification compares on."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ..errors import UserError
from ..fields import MOST_INTEGER, shown
from ..text.prompts import Prompt
from ..threads import thread_count


@dataclass(frozen=True)
class VerifyOptions:
    """What to compare on, and by which limits.

    Attributes:
        prompts: whose answers are compared.
        max_tokens: of each answer.
        probe_tokens: look at positions before this one only; None for the whole context.
        recipe_thresholds: see `read_thresholds`.
        stock: run stock LiteRT-LM, too.
        stop_at_first_failure: run no stage after the first that fails.
        threads: CPU threads; all cores, at most 4, by default.
        context_length: to load the bundle with, in tokens; None for what it asks for.

    Raises:
        UserError: a value out of range.
    """

    prompts: tuple[Prompt, ...]
    max_tokens: int = 48
    probe_tokens: int | None = None
    recipe_thresholds: str | None = None
    stock: bool = True
    stop_at_first_failure: bool = False
    threads: int | None = None
    context_length: int | None = None

    def __post_init__(self) -> None:
        if not self.prompts:
            raise UserError("no prompt to verify with; expected at least one")
        if not 1 <= self.max_tokens <= MOST_INTEGER:
            raise UserError(f"--max-tokens: {shown(self.max_tokens)}, expected 1 or more, at most {MOST_INTEGER}")
        if self.probe_tokens is not None and self.probe_tokens < 2:
            raise UserError(f"--probe-tokens: {self.probe_tokens}, expected 2 or more")

    def as_dict(self) -> dict[str, Any]:
        """Everything but the prompts, as plain JSON types."""
        given = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "prompts"}
        return given | {"threads": thread_count(self.threads)}
