"""The conversations that a template is tried on, and the form in which LiteRT-LM hands them to it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...runtime.text.litertlm_template import Message, messages_as_given

Tool = dict[str, Any]


@dataclass(frozen=True)
class Conversation:
    """One call of a template. `messages` are as transformers takes them; a tool's answer is one message of the role
    `tool` with its text in `content`. `variables` are further ones, such as `enable_thinking`."""

    name: str
    messages: list[Message]
    tools: list[Tool] | None = None
    add_generation_prompt: bool = True
    variables: Mapping[str, Any] = field(default_factory=dict)

    def as_runtime(self) -> list[Message]:
        """The messages as LiteRT-LM hands them to the template."""
        return messages_as_given(self.messages)


def tool_responses_as_runtime(messages: Sequence[Message]) -> list[Message]:
    """`messages` in LiteRT-LM's form where its bindings call tools themselves: consecutive answers become parts of the
    type `tool_response` (litert_lm/conversation.py, 0.18.1, one message each)."""
    return [
        {"role": "tool", "content": [{"type": "tool_response", "name": each["name"], "response": each["content"]}]}
        if each["role"] == "tool"
        else messages_as_given([each])[0]
        for each in messages
    ]


@dataclass(frozen=True)
class ToolCallingConversation(Conversation):
    """A conversation whose tools LiteRT-LM's bindings have called by themselves."""

    def as_runtime(self) -> list[Message]:
        return tool_responses_as_runtime(self.messages)


@dataclass(frozen=True)
class AnsweredConversation(Conversation):
    """A conversation whose answers LiteRT-LM gave itself: it keeps what the model thought as a channel of the message
    (seen in 0.18.1), and takes it out of the cache before the next question."""

    def as_runtime(self) -> list[Message]:
        given = super().as_runtime()
        return [
            {**message, "channels": {"thought": f"{message['reasoning_content']}\n"}}
            if message["role"] == "assistant" and "reasoning_content" in message
            else message
            for message in given
        ]


def _says(role: str, content: Any, **more: Any) -> Message:
    return {"role": role, "content": content, **more}


def _calls(*calls: tuple[str, dict[str, Any]], numbered: bool = True, **more: Any) -> Message:
    listed = [
        {
            **({"id": f"call_{number}"} if numbered else {}),
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }
        for number, (name, arguments) in enumerate(calls)
    ]
    return {"role": "assistant", **more, "tool_calls": listed}


def _answers(name: str, content: Any, number: int | None = 0) -> Message:
    return _says("tool", content, name=name, **({} if number is None else {"tool_call_id": f"call_{number}"}))


def _text(text: str) -> Message:
    return {"type": "text", "text": text}


_WEATHER: Tool = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a place.",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": 'A town\'s "name", e.g. Zürich & Co.'},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "nullable": True},
                "days": {"type": "integer"},
            },
            "required": ["place"],
        },
    },
}
_ORDER: Tool = {
    "type": "function",
    "function": {
        "name": "order",
        "description": "Order <things>, it's quick.",
        "parameters": {
            "type": "object",
            "properties": {
                "items": {
                    "type": "array",
                    "description": "What to order.",
                    "items": {
                        "type": "object",
                        "properties": {"sku": {"type": "string"}, "count": {"type": "integer", "description": "N"}},
                        "required": ["sku"],
                    },
                },
                "tags": {"type": "array", "items": {"type": "string", "enum": ["new", "used"]}},
                "address": {
                    "type": "object",
                    "description": "Where to.",
                    "properties": {"zip": {"type": "string"}, "floor": {"type": "number", "nullable": True}},
                    "required": ["zip"],
                },
                "gift": {"type": "boolean", "description": "Wrap it."},
                "note": {"type": ["string", "null"], "default": None},
            },
            "required": ["items", "address"],
        },
    },
}  # fmt: skip
_BARE: Tool = {"type": "function", "function": {"name": "now", "description": "The time.", "parameters": {}}}
_TOOLS = [_WEATHER, _ORDER, _BARE]

_ASK = _says("user", "What is the weather in Zürich?")
_SYSTEM = _says("system", "You are terse.")
_ORDERED = {"items": [{"sku": "a-1", "count": 2}], "gift": True, "note": None, "price": 1.5, "name": 'say "hi"'}
_CALLED = _calls(("get_weather", {"place": "Zürich", "days": 3}))
_AWKWARD = (
    '  It\'s 5 > 3 & "so".\n\tA back\\slash, {braces}, {{ double }}, {% percent %}, {# hash #}, 100%.\n\n'
    "Grüße 日本語 🙂 <b>bold</b> .strip() a.items()  \n"
)


# One conversation a role whose message has its text in parts: where transformers cannot take that, parts are joined.
PARTS_BY_ROLE: dict[str, Conversation] = {
    "user": Conversation("text in two parts", [_says("user", [_text("Hi "), _text(" there!")])]),
    "assistant": Conversation("answer in two parts", [_ASK, _says("assistant", [_text("It "), _text("rains.")]), _ASK]),
    "system": Conversation("system in two parts", [_says("system", [_text("Be "), _text("terse.")]), _ASK]),
    "developer": Conversation("developer in two parts", [_says("developer", [_text("Be "), _text("terse.")]), _ASK]),
    "tool": Conversation(
        "tool answer in two parts",
        [_ASK, _CALLED, _says("tool", [_text("sun"), _text("ny")], name="get_weather", tool_call_id="call_0")],
        _TOOLS,
    ),
}


def _basic() -> list[Conversation]:
    turns = [_says("user", "Hi!"), _says("assistant", "Hello."), _says("user", "How are you?")]
    return [
        Conversation("one turn", [_says("user", "Hi!")]),
        Conversation("several turns", turns),
        Conversation("several turns, answered", [*turns, _says("assistant", "Well.")], add_generation_prompt=False),
        Conversation("no generation prompt", [_says("user", "Hi!")], add_generation_prompt=False),
        Conversation("an answer to go on with", turns[:2]),
        Conversation("system", [_SYSTEM, _says("user", "Hi!")]),
        Conversation("system, several turns", [_SYSTEM, *turns]),
        Conversation("developer", [_says("developer", "You are terse."), _says("user", "Hi!")]),
        Conversation("system in between", [*turns[:2], _SYSTEM, turns[2]]),
        Conversation("two user messages in a row", [_says("user", "Hi!"), _says("user", "Hello?")]),
        Conversation("two answers in a row", [*turns[:2], _says("assistant", "I'm here."), turns[2]]),
        Conversation("an unknown role", [_says("critic", "Hm."), _says("user", "Hi!")]),
    ]


def _texts() -> list[Conversation]:
    thought = "<|channel>thought\nLet me see.\n<channel|>Hello."
    tagged = "<think>\nLet me see.\n</think>\n\nHello."
    again = _says("user", "And?")
    return [
        Conversation("white space around text", [_says("system", "  Terse. \n"), _says("user", "\n\n  Hi! \n\n")]),
        Conversation("awkward text", [_says("user", _AWKWARD), _says("assistant", _AWKWARD), _says("user", _AWKWARD)]),
        Conversation("awkward system", [_says("system", _AWKWARD), _says("user", "Hi!")]),
        Conversation("empty user text", [_says("user", "")]),
        Conversation("empty system", [_says("system", ""), _says("user", "Hi!")]),
        Conversation("empty answer", [_says("user", "Hi!"), _says("assistant", ""), again]),
        Conversation("a thought in the text", [_says("user", "Hi!"), _says("assistant", thought), again]),
        Conversation("a tagged thought in the text", [_says("user", "Hi!"), _says("assistant", tagged), again]),
        Conversation("a thought in the last text", [_says("user", "Hi!"), _says("assistant", thought)]),
    ]


def _parts() -> list[Conversation]:
    picture = {"type": "image"}
    return [
        *PARTS_BY_ROLE.values(),
        Conversation("image and text", [_says("user", [picture, _text("What is this?")])]),
        Conversation("text and image", [_says("user", [_text("What is this? "), picture])]),
        Conversation("two images", [_says("user", [_text("Compare"), picture, _text(" with "), picture])]),
        Conversation("image only", [_says("user", [picture])]),
        Conversation("audio", [_says("user", [_text("Write down:"), {"type": "audio"}])]),
        Conversation("image under system", [_SYSTEM, _says("user", [picture, _text("This?")])]),
    ]  # fmt: skip


def _reasoning() -> list[Conversation]:
    reasoned = _says("assistant", "Sunny.", reasoning_content="They ask about\nthe weather.")
    called = {**_CALLED, "reasoning_content": "I should look it up."}
    answered = [_ASK, called, _answers("get_weather", "sunny")]
    found = []
    for thinking in (True, False):
        on = {"enable_thinking": thinking}
        word = "on" if thinking else "off"
        found += [
            Conversation(f"thinking {word}", [_ASK], variables=on),
            Conversation(f"thinking {word}, system", [_SYSTEM, _ASK], variables=on),
            Conversation(f"thinking {word}, earlier reasoning", [_ASK, reasoned, _ASK], variables=on),
            Conversation(f"thinking {word}, tools", answered, _TOOLS, variables=on),
        ]
    return [
        *found,
        AnsweredConversation(
            "reasoning of LiteRT-LM's own answer", [_ASK, reasoned, _ASK], variables={"enable_thinking": True}
        ),
        Conversation("reasoning last", [_ASK, reasoned], add_generation_prompt=False),
        Conversation("reasoning kept", [_ASK, reasoned, _ASK], variables={"preserve_thinking": True}),
        Conversation("reasoning kept, tools", [*answered, _ASK], _TOOLS, variables={"preserve_thinking": True}),
        Conversation("reasoning before a call", [*answered, _says("assistant", "Sunny."), _ASK], _TOOLS),
    ]


def _tools() -> list[Conversation]:
    two = _calls(("get_weather", {"place": "Zürich"}), ("order", _ORDERED))
    both = [_answers("get_weather", "sunny"), _answers("order", "done", 1)]
    legacy = {**_CALLED, "tool_responses": [{"name": "get_weather", "response": {"sky": "clear", "degrees": 21.5}}]}
    unnumbered = _calls(("get_weather", {"place": "Zürich"}), numbered=False)
    structured = json.dumps({"sky": "clear", "degrees": 21})
    done = _says("assistant", "It is sunny.")
    return [
        Conversation("tools", [_ASK], _TOOLS),
        Conversation("tools under system", [_SYSTEM, _ASK], _TOOLS),
        Conversation("one bare tool", [_ASK], [_BARE]),
        Conversation("no tools in the list", [_ASK], []),
        Conversation("tool call", [_ASK, _CALLED], _TOOLS),
        Conversation("tool call with text", [_ASK, {**_CALLED, "content": "Let me look."}], _TOOLS),
        Conversation("tool answer", [_ASK, _CALLED, _answers("get_weather", "sunny")], _TOOLS),
        Conversation("tool answer in JSON", [_ASK, _CALLED, _answers("get_weather", structured)], _TOOLS),
        Conversation("tool answer, told", [_ASK, _CALLED, _answers("get_weather", "sunny"), done, _ASK], _TOOLS),
        Conversation("two tool calls", [_ASK, two, *both], _TOOLS),
        Conversation("two tool calls, told", [_SYSTEM, _ASK, two, *both, done, _ASK], _TOOLS),
        Conversation("tool calls one after another", [_ASK, _CALLED, both[0], _CALLED, both[0], done], _TOOLS),
        Conversation("empty arguments", [_ASK, _calls(("now", {})), _answers("now", "noon")], _TOOLS),
        Conversation("tool responses with the call", [_ASK, legacy, done], _TOOLS),
        ToolCallingConversation(
            "tool called by the runtime", [_ASK, unnumbered, _answers("get_weather", "sunny", None)], _TOOLS
        ),
        ToolCallingConversation(
            "tool called by the runtime, told",
            [_ASK, unnumbered, _answers("get_weather", structured, None), done, _ASK],
            _TOOLS,
        ),
    ]


CONVERSATIONS: tuple[Conversation, ...] = (*_basic(), *_texts(), *_parts(), *_reasoning(), *_tools())
