"""Prompts from a JSON-lines file.

One object a line, with `prompt` (a user's message), `messages` (a whole chat) or `text` (as the model reads it, without
the chat template).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from .chat_template import Message

# For runs without prompts: a question, a text to go on with, code.
DEFAULT_PROMPTS = (
    "Explain in a few sentences why the sky is blue.",
    "Write a short story about a lighthouse keeper who finds a letter.",
    "Write a Python function that reads a CSV file and returns the mean of every numeric column.",
)
_KEYS = ("prompt", "messages", "text")


@dataclass(frozen=True)
class Prompt:
    """What to answer: `text` as the model reads it, or `messages` for the chat template."""

    text: str | None = None
    messages: tuple[Message, ...] = ()

    @property
    def last_message(self) -> str:
        """The user's message at the end of the chat."""
        return self.messages[-1]["content"]

    @property
    def asked(self) -> str:
        """What tells this prompt from others: the chat's last message, or the text."""
        return str(self.last_message) if self.text is None else self.text


def user_prompt(message: str) -> Prompt:
    """A chat of one message."""
    return Prompt(messages=({"role": "user", "content": message},))


def read_prompts(path: Path) -> list[Prompt]:
    """All prompts of a JSON-lines file; empty lines are skipped.

    Raises:
        UserError: the file cannot be read or holds no prompt, or a line is none; it names the line.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); expected a UTF-8 file with one JSON object a line"
        ) from error
    prompts = [_parse(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise UserError(f'{path}: no prompt; expected lines such as {{"prompt": "Why is the sky blue?"}}')
    return prompts


def _parse(line: str, where: str) -> Prompt:
    try:
        value: Any = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error})") from error
    given = [key for key in _KEYS if key in value] if isinstance(value, dict) else []
    if len(given) != 1:
        raise UserError(f"{where}: expected an object with one of {', '.join(_KEYS)}, found {line.strip()[:60]}")
    content = value[given[0]]
    if given[0] == "messages":
        if not _is_chat(content):
            raise UserError(f'{where}: messages must be a list of {{"role": ..., "content": ...}}')
        return Prompt(messages=tuple(content))
    if not isinstance(content, str):
        raise UserError(f"{where}: {given[0]} must be a text")
    return Prompt(text=content) if given[0] == "text" else user_prompt(content)


def _is_chat(content: Any) -> bool:
    entries = content if isinstance(content, list) else []
    return bool(entries) and all(isinstance(entry, dict) and {"role", "content"} <= entry.keys() for entry in entries)
