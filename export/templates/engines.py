"""The two engines that read a chat template, transformers' Jinja2 and LiteRT-LM's MiniJinja, behind one interface.

Both render in processes of their own, within bounds of time, memory and output; see `runtime.text.sandbox`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...runtime.text.litertlm_template import RefusedError, render, text_or_refusal
from ...runtime.text.sandbox import SECONDS
from .conversations import Conversation

__all__ = ["RefusedError", "RuntimeEngine", "TransformersEngine"]

# Imported by the child process alone.
_JINJA = f"{__package__}.jinja_child"


@dataclass(frozen=True)
class TransformersEngine:
    """`apply_chat_template` of transformers, without a tokenizer: `special_tokens` are the texts by name, `bos_token`
    and so on, that a tokenizer would add to the variables."""

    special_tokens: Mapping[str, str] = field(default_factory=dict)
    seconds: float = SECONDS

    def render(self, template: str, conversation: Conversation) -> str:
        """The prompt as transformers makes it.

        Raises:
            RefusedError: the template raised an exception, is not Jinja, or took too long or too much memory.
        """
        call = {
            "messages": conversation.messages,
            "tools": None if conversation.tools is None else [*conversation.tools],
            "add_generation_prompt": conversation.add_generation_prompt,
            "variables": {**self.special_tokens, **conversation.variables},
        }
        return text_or_refusal(_JINJA, template, call, seconds=self.seconds)


@dataclass(frozen=True)
class RuntimeEngine:
    """LiteRT-LM's rendering of `LlmMetadata.jinja_prompt_template`; see `litertlm_template`."""

    def render(self, template: str, conversation: Conversation) -> str:
        """The prompt as LiteRT-LM makes it, without the start token.

        Raises:
            RefusedError: the template raised an exception, is not MiniJinja, or took too long or too much memory.
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
