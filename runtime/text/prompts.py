"""Prompts from a JSON-lines file.

One object a line, with `prompt` (a user's message), `messages` (a whole chat) or `text` (as the model reads it, without
the chat template); beside the first two, what the template shall see: `tools`, `enable_thinking`, and under
`chat_template_kwargs` (vLLM's name) any other variable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..fields import parse_json, read_json, read_utf8, shown
from .litertlm_template import Message

# For runs without prompts: a question, a text to go on with, code.
DEFAULT_PROMPTS = (
    "Explain in a few sentences why the sky is blue.",
    "Write a short story about a lighthouse keeper who finds a letter.",
    "Write a Python function that reads a CSV file and returns the mean of every numeric column.",
)
_KINDS = ("prompt", "messages", "text")
_VARIABLES = ("tools", "enable_thinking", "chat_template_kwargs")
_PART = 'expected parts such as {"type": "text", "text": ...}'
# Given by the runtime or by the conversation itself.
_RESERVED = ("messages", "add_generation_prompt", "bos_token")


@dataclass(frozen=True)
class Prompt:
    """What to answer: `text` as the model reads it, or `messages` for the chat template, which sees `variables`
    (`tools`, `enable_thinking`, ...) beside them."""

    text: str | None = None
    messages: tuple[Message, ...] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)

    @property
    def last_message(self) -> str:
        """The text of the message at the end of the chat."""
        content = self.messages[-1].get("content")
        if isinstance(content, list):
            return "".join(part.get("text", "") for part in content)
        return content or ""

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
    lines = read_utf8(path, "one JSON object a line").split("\n")
    prompts = [_parse(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise UserError(f'{path}: no prompt; expected lines such as {{"prompt": "Why is the sky blue?"}}')
    return prompts


def read_tools(path: Path) -> list[dict[str, Any]]:
    """Tools from a JSON file: a list of function declarations, as transformers and OpenAI write them.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    value = read_json(path, "a list of function declarations", strict=True)
    return checked_tools(value, str(path))


def checked_tools(value: Any, where: str) -> list[dict[str, Any]]:
    """`value` if it is a list of function declarations.

    Raises:
        UserError: it is none; `where` names it.
    """
    entries = value if isinstance(value, list) else []
    wrong = [entry for entry in entries if not _is_tool(entry)]
    if wrong or not isinstance(value, list):
        form = '{"type": "function", "function": {"name": ..., "parameters": ...}}'
        found = shown(wrong[0] if wrong else value)
        raise UserError(f"{where}: tools must be a list of {form}, found {found}")
    return entries


def _is_tool(entry: Any) -> bool:
    function = entry.get("function") if isinstance(entry, dict) else None
    return isinstance(function, dict) and isinstance(function.get("name"), str)


def _parse(line: str, where: str) -> Prompt:
    value: Any = parse_json(line, where, "an object", strict=True)
    given = [key for key in _KINDS if key in value] if isinstance(value, dict) else []
    if len(given) != 1:
        raise UserError(f"{where}: expected an object with one of {', '.join(_KINDS)}, found {line.strip()[:60]}")
    kind, content = given[0], value[given[0]]
    further = () if kind == "text" else _VARIABLES
    if unknown := sorted(value.keys() - {kind, *further}):
        known = f"{', '.join(further)}" if further else "nothing, as no template sees it"
        raise UserError(f"{where}: {unknown[0]!r} is unknown; expected beside {kind}: {known}")
    if kind == "messages":
        _check_chat(content, where)
        return Prompt(messages=tuple(content), variables=_variables(value, where))
    if not isinstance(content, str):
        raise UserError(f"{where}: {kind} must be a text")
    if kind == "text":
        return Prompt(text=content)
    return Prompt(messages=user_prompt(content).messages, variables=_variables(value, where))


def _variables(value: dict[str, Any], where: str) -> dict[str, Any]:
    found: Any = value.get("chat_template_kwargs", {})
    if not isinstance(found, dict) or found.keys() & {*_RESERVED} or not all(map(str.isidentifier, found)):
        raise UserError(
            f"{where}: chat_template_kwargs must be an object of template variables, none of {', '.join(_RESERVED)}"
        )
    found = dict(found)
    if "enable_thinking" in value:
        if not isinstance(value["enable_thinking"], bool):
            raise UserError(f"{where}: enable_thinking is {shown(value['enable_thinking'])}, expected true or false")
        found["enable_thinking"] = value["enable_thinking"]
    if "tools" in value:
        found["tools"] = checked_tools(value["tools"], where)
    return found


def _check_chat(content: Any, where: str) -> None:
    if not isinstance(content, list) or not content:
        raise UserError(f'{where}: messages is {shown(content)}, expected a list of {{"role": ..., "content": ...}}')
    for number, message in enumerate(content, 1):
        if problem := _problem(message):
            raise UserError(f"{where}: messages, number {number}: {problem}")


def _problem(message: Any) -> str | None:
    """What is wrong with a message: it has a role, and says something: a text, parts, tool calls or responses."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        return f'is {shown(message)} without a role, expected {{"role": ..., "content": ...}}'
    lists = {key: message[key] for key in ("tool_calls", "tool_responses") if message.get(key) is not None}
    for key, found in lists.items():
        if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
            return f"{key} is {shown(found)}, expected a list of objects"
    for key in ("reasoning_content", "reasoning", "name"):
        if not isinstance(message.get(key) or "", str):
            return f"{key} is {shown(message[key])}, expected a text"
    content = message.get("content")
    if isinstance(content, list):
        return next((f"content has {shown(part)}, {_PART}" for part in content if not _is_part(part)), None)
    if isinstance(content, str) or (content is None and lists):
        return None
    return f"content is {shown(content)}, expected a text or a list of parts"


def _is_part(part: Any) -> bool:
    kind = part.get("type") if isinstance(part, dict) else None
    return isinstance(kind, str) and (kind != "text" or isinstance(part.get("text"), str))
