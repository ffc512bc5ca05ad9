"""The text of a chat, by a bundle's chat template, as LiteRT-LM renders it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UserError
from .litertlm_template import Message, RefusedError, messages_as_given, render


def render_chat(
    template: str, messages: Sequence[Message], start: str, variables: Mapping[str, Any] | None = None
) -> str:
    """The text of `messages` and the beginning of the model's turn, behind `start`, the text of the start token.

    Raises:
        UserError: the bundle has no template, the template refuses the messages, or it does not read one of
            `variables`.
    """
    if not template:
        raise UserError("the bundle has no chat template; give the text as the model reads it, with --raw")
    for name in variables or {}:
        if not re.search(rf"\b{re.escape(name)}\b", template):
            raise UserError(f"the bundle's chat template reads no variable {name}; leave it out")
    given = {"bos_token": "", "eos_token": "", "add_generation_prompt": True, **(variables or {})}
    try:
        return start + render(template, {"messages": messages_as_given(messages), **given})
    except RefusedError as error:
        raise UserError(f"the bundle's chat template cannot render the messages ({error})") from error
