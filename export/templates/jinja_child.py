"""transformers' rendering of a chat template, as the sandbox's child process runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2
from transformers.utils.chat_template_utils import render_jinja_template


def answer(template: str, call: Mapping[str, Any]) -> dict[str, Any]:
    """`text`, or `refused`, and `deliberate` where the template called `raise_exception`.

    `call` holds `messages`, `tools`, `add_generation_prompt`, and further `variables`.
    """
    try:
        rendered, _ = render_jinja_template(
            conversations=[call["messages"]],
            tools=call["tools"],
            chat_template=template,
            add_generation_prompt=call["add_generation_prompt"],
            **call["variables"],
        )
    except (Exception, MemoryError) as error:  # A template can make any of Python's errors happen.
        deliberate = type(error) is jinja2.exceptions.TemplateError
        return {"refused": f"{type(error).__name__}: {error}".rstrip(": "), "deliberate": deliberate}
    return {"text": rendered[0]}
