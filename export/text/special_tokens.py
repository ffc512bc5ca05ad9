"""Which tokens begin and end what a target says: from generation_config.json, config.json, tokenizer and template."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ...runtime.errors import UserError
from ...runtime.fields import shown
from ...runtime.text.litertlm_template import Message, RefusedError
from ...runtime.text.tokenizer import Tokenizer
from ..templates.conversations import Conversation
from ..templates.engines import TransformersEngine

_STOP_KEY = "eos_token_id"
# Gemma 4's control tokens that a bundle's metadata name.
CONTROL_TOKENS = (
    "<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", '<|"|>',
    "<|image>", "<image|>", "<|audio>", "<audio|>",
)  # fmt: skip
_WRITTEN = re.compile(r"<[^<>\s]{1,40}>")
_QUESTION, _ANSWER = "gemmamtpquestion", "gemmamtpanswer"


def stop_tokens(generation: Mapping[str, Any], config: Mapping[str, Any], vocabulary: int, where: str) -> list[int]:
    """Every token that any of the files calls an end, in a stable order.

    The files of one checkpoint name different ones: E2B's generation_config.json has 1, 106 and 50, its config.json 1
    and 106, and text_config in it only 1. A list that lacks the end of a turn makes the model talk on.

    Raises:
        UserError: none is named, or one is no token of the vocabulary.
    """
    found: dict[int, None] = {}
    for name, settings in _in_order(generation, config):
        value = settings.get(_STOP_KEY)
        for token in value if isinstance(value, list) else [value]:
            if token is not None:
                found.setdefault(_token(token, f"{_STOP_KEY} in {name}", vocabulary, where))
    if not found:
        raise UserError(f"{where}: no {_STOP_KEY} in generation_config.json or config.json; name the stop tokens there")
    return list(found)


def single_token(
    key: str,
    generation: Mapping[str, Any],
    config: Mapping[str, Any],
    vocabulary: int,
    where: str,
    default: int | None = None,
) -> int:
    """The token called `key`: of generation_config.json, else config.json's, else its text_config's, else `default`.

    Raises:
        UserError: none is named, or it is no token of the vocabulary.
    """
    found = ((settings[key], name) for name, settings in _in_order(generation, config) if settings.get(key) is not None)
    value, name = next(found, (default, "generation_config.json and config.json"))
    return _token(value, f"{key} in {name}", vocabulary, where)


def known_tokens(tokenizer: Tokenizer) -> frozenset[str]:
    """Those of `CONTROL_TOKENS` that the tokenizer has as one token."""
    return frozenset(token for token in CONTROL_TOKENS if len(tokenizer.encode(token)) == 1)


def unstopped(template: str, tokenizer: Tokenizer, stop: tuple[int, ...]) -> tuple[str, ...]:
    """Warnings of tokens that the template writes at an answer's end, but that are no stop tokens.

    A model tuned on the template says such a token at that place, and then goes on with the other side's turn.
    """
    purposes = (("ends an assistant's turn", _turn_end), ("waits for a tool's response", _tool_wait))
    warnings = []
    for purpose, find in purposes:
        token = find(template, lambda text: len(tokenizer.encode(text)) == 1)
        if token is not None and (number := tokenizer.encode(token)[0]) not in stop:
            warnings.append(
                f"the chat template {purpose} with {token} (token {number}), which is no stop token;"
                f" answers will run on (add it to {_STOP_KEY} in generation_config.json)"
            )
    return tuple(warnings)


def _in_order(generation: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each place where a token may be named, and how errors call it."""
    yield "generation_config.json", generation
    yield "config.json", config
    yield "text_config of config.json", config.get("text_config") or {}


def _token(value: Any, key: str, vocabulary: int, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < vocabulary:
        found = "missing" if value is None else shown(value)
        raise UserError(f"{where}: {key} is {found}, expected a token below {vocabulary}")
    return value


def _turn_end(template: str, is_token: Callable[[str], bool]) -> str | None:
    """The first token after an assistant's text."""
    messages = [_said("user", _QUESTION), _said("assistant", _ANSWER), _said("user", _QUESTION)]
    _, found, after = _rendered(template, messages).partition(_ANSWER)
    written = _WRITTEN.finditer(after.partition(_QUESTION)[0]) if found else ()
    return next((match[0] for match in written if is_token(match[0])), None)


def _tool_wait(template: str, is_token: Callable[[str], bool]) -> str | None:
    """The token with which a conversation ends whose last message calls a tool; None if it ends otherwise."""
    call = {"type": "function", "function": {"name": "call", "arguments": {"argument": _ANSWER}}}
    messages = [_said("user", _QUESTION), {**_said("assistant", ""), "tool_calls": [call]}]
    _, found, after = _rendered(template, messages).partition(_ANSWER)
    written = [match for match in _WRITTEN.finditer(after) if is_token(match[0])] if found else []
    return written[-1][0] if written and written[-1].end() == len(after.rstrip()) else None


def _said(role: str, text: str) -> Message:
    return {"role": role, "content": text}


def _rendered(template: str, messages: list[Message]) -> str:
    """The conversation's text; empty where the template does not take such messages."""
    try:
        return TransformersEngine().render(template, Conversation("", messages, add_generation_prompt=False))
    except RefusedError:
        return ""
