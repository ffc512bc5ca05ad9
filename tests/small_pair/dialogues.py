"""The dialogues that the small pair's chat adapter is taught: turns, a system message, thinking and tool calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

TURN_END, TOOL_WAIT = "<turn|>", "<|tool_response>"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@dataclass(frozen=True)
class Turn:
    """What is sent, what the model says to it and how that reads as a message.

    `stop` is the token that ends the answer: the turn's end, or the one with which the model waits for a tool.
    """

    sent: dict[str, Any]
    raw: str
    answer: dict[str, Any]
    stop: str = TURN_END


@dataclass(frozen=True)
class Dialogue:
    """A conversation of the chat adapter."""

    name: str
    turns: tuple[Turn, ...]
    system: str | None = None
    tools: tuple[dict[str, Any], ...] = ()
    enable_thinking: bool = False
    variables: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        variables: dict[str, Any] = {"enable_thinking": True} if self.enable_thinking else {}
        object.__setattr__(self, "variables", variables)

    def messages(self, turn: int) -> list[dict[str, Any]]:
        """Every message before the answer of 0-based `turn`."""
        before = [{"role": "system", "content": self.system}] if self.system else []
        for past in self.turns[:turn]:
            before += [past.sent, past.answer]
        return [*before, self.turns[turn].sent]


def said(question: str, answer: str) -> Turn:
    return Turn({"role": "user", "content": question}, answer, {"role": "assistant", "content": answer})


def thought(question: str, thinking: str, answer: str) -> Turn:
    return Turn(
        {"role": "user", "content": question},
        f"<|channel>thought\n{thinking}\n<channel|>{answer}",
        {"role": "assistant", "content": answer, "reasoning_content": thinking},
    )


def called(question: str, city: str) -> Turn:
    call = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": city}}}
    return Turn(
        {"role": "user", "content": question},
        f'<|tool_call>call:get_weather{{city:<|"|>{city}<|"|>}}<tool_call|>',
        {"role": "assistant", "tool_calls": [call]},
        TOOL_WAIT,
    )


def responded(response: str, answer: str) -> Turn:
    sent = {"role": "tool", "name": "get_weather", "content": [{"type": "text", "text": response}]}
    return Turn(sent, answer, {"role": "assistant", "content": answer})


PLAIN = Dialogue(
    "plain",
    (
        said("Name a sorting algorithm.", "Merge sort: split the list, sort both halves and merge them."),
        said("How fast is it?", "It takes n log n steps, also in the worst case."),
        said("Is it in Python?", "Python has sorted(items), which merges sorted runs."),
    ),
)
SYSTEM = Dialogue(
    "system",
    (
        said("Which keyword defines a function?", "def"),
        said("And a class?", "class"),
        said("And a loop?", "for"),
    ),
    system="Answer in one word.",
)
THINKING = Dialogue(
    "thinking",
    (
        thought("What is 17 + 25?", "7 + 5 = 12, 1 + 2 + 1 = 4.", "42"),
        thought("Double it.", "42 + 42 = 84.", "84"),
        thought("Is it even?", "84 = 2 * 42.", "Yes, it is even."),
    ),
    enable_thinking=True,
)
TOOLS = Dialogue(
    "tools",
    (
        called("How is the weather in Paris?", "Paris"),
        responded("clear, 21 degrees", "It is clear in Paris, 21 degrees."),
        called("And in Rome?", "Rome"),
        responded("rain, 14 degrees", "It rains in Rome, 14 degrees."),
    ),
    tools=(WEATHER,),
)
DIALOGUES = (PLAIN, SYSTEM, THINKING, TOOLS)


def all_turns() -> Iterator[tuple[Dialogue, int]]:
    """Every turn of every dialogue, with its 0-based place."""
    for dialogue in DIALOGUES:
        for place in range(len(dialogue.turns)):
            yield dialogue, place
