"""The two engines that read a chat template, transformers' Jinja2 and LiteRT-LM's MiniJinja, behind one interface.

transformers renders within seconds. The memory that a template takes is not bounded, and a rendering that ran out of
time goes on in a daemon thread until the process ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jinja2
from transformers.utils.chat_template_utils import render_jinja_template

from ...runtime.text.litertlm_template import RefusedError, render
from .conversations import Conversation


@dataclass(frozen=True)
class TransformersEngine:
    """`apply_chat_template` of transformers, without a tokenizer: `special_tokens` are the texts by name, `bos_token`
    and so on, that a tokenizer would add to the variables."""

    special_tokens: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 10.0

    def render(self, template: str, conversation: Conversation) -> str:
        """The prompt as transformers makes it.

        Raises:
            RefusedError: the template raised an exception, is not Jinja, or took too long.
        """

        def rendering() -> str:
            rendered, _ = render_jinja_template(
                conversations=[conversation.messages],
                tools=None if conversation.tools is None else [*conversation.tools],
                chat_template=template,
                add_generation_prompt=conversation.add_generation_prompt,
                **{**self.special_tokens, **conversation.variables},
            )
            return rendered[0]

        return _within_time(rendering, self.seconds)


@dataclass(frozen=True)
class RuntimeEngine:
    """LiteRT-LM's rendering of `LlmMetadata.jinja_prompt_template`; see `litertlm_template`."""

    def render(self, template: str, conversation: Conversation) -> str:
        """The prompt as LiteRT-LM makes it, without the start token.

        Raises:
            RefusedError: the template raised an exception, is not MiniJinja, or took too many steps.
        """
        variables: dict[str, Any] = {
            "messages": conversation.as_runtime(),
            "add_generation_prompt": conversation.add_generation_prompt,
            "bos_token": "",
            "eos_token": "",
            **({} if conversation.tools is None else {"tools": conversation.tools}),
            **conversation.variables,
        }
        return render(template, variables)


def _within_time(rendering: Callable[[], str], seconds: float) -> str:
    outcome: list[str | Exception] = []

    def run() -> None:
        try:
            outcome.append(rendering())
        except Exception as error:  # A template can make any of Python's errors happen.
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise RefusedError(f"not done after {seconds:g} s")
    if isinstance(outcome[0], Exception):
        error = outcome[0]
        raise RefusedError(
            f"{type(error).__name__}: {error}", deliberate=type(error) is jinja2.exceptions.TemplateError
        ) from error
    return outcome[0]
