"""The stage of what surrounds the graphs: stop tokens, start token and chat template against the checkpoint's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...bundle.inspection import Inspection
from ..report.report import Stage
from .conversation import ConversationReference


@dataclass(frozen=True)
class CheckpointText:
    """What the checkpoint's own files say.

    Attributes:
        stop: every token that one of them calls an end.
        start: the token with which its prompts begin; None if they begin with none.
        differences: where a bundle's chat template gives another prompt than the checkpoint's in transformers, one
            line each.
        conversation: its tokenizer and template in transformers.
    """

    stop: tuple[int, ...]
    start: int | None
    differences: Callable[[str], Sequence[str]]
    conversation: ConversationReference


def metadata_stage(stage: Stage, inspection: Inspection, text: CheckpointText) -> None:
    """Compare a bundle's metadata with `text`."""
    metadata = inspection.bundle.llm_metadata
    found = {tuple(stop.token_ids.ids) for stop in metadata.stop_tokens if not stop.HasField("token_str")}
    expected = {(token,) for token in text.stop}
    problems = [f"token {shown(stop)} is lost: an answer does not end there" for stop in sorted(expected - found)]
    problems += [f"token {shown(stop)} is none of the checkpoint's" for stop in sorted(found - expected)]
    stage.holds("stop tokens are the checkpoint's", problems)
    start = tuple(metadata.start_token.token_ids.ids) if metadata.HasField("start_token") else ()
    wanted = () if text.start is None else (text.start,)
    stage.holds(
        "the start token is the checkpoint's",
        [] if start == wanted else [f"{shown(start)}, expected {shown(wanted)}"],
    )
    stage.holds("the chat template gives transformers' prompts", list(text.differences(metadata.jinja_prompt_template)))


def shown(tokens: Sequence[Any]) -> str:
    """Token ids for people."""
    return ", ".join(map(str, tokens)) or "none"
