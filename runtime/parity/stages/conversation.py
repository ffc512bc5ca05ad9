"""The stage of conversations: stock LiteRT-LM renders the bundle's chat template itself, as it does in an app."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from ...stock import Conversation, ConversationRequest, StockRuntimeError, Turn, run_conversations
from ..report.report import Stage

_THOUGHT = "thought"
_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Paris"}}}
_GENERAL = ("Write a haiku about rain.", "Another one, about snow.", "Which of the two is better?")
_QUESTION = "How is the weather in Paris?"


class RenderReference(Protocol):
    """The checkpoint's own tokenizer in transformers: `apply_chat_template(..., tokenize=False)`, in whose text the
    start token is written out."""

    def __call__(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        **variables: Any,
    ) -> str: ...


@dataclass(frozen=True)
class ConversationReference:
    """What conversations are compared with.

    Attributes:
        render: see `RenderReference`.
        encode: token ids of a text that holds the start token where it has one.
        start: text of the start token.
        call_start: text with which a tool call begins.
    """

    render: RenderReference
    encode: Callable[[str], Sequence[int]]
    start: str
    call_start: str = "<|tool_call>"


def conversation_requests(template: str, asked: Sequence[str] = ()) -> dict[str, ConversationRequest]:
    """Conversations that a chat template can hold, by name: tools and thinking only where it mentions them.

    `asked` are questions to ask in place of general ones.
    """
    turns = (*asked, *_GENERAL[len(asked) :])[: len(_GENERAL)]
    requests = {
        "one turn": ConversationRequest(turns[:1]),
        "three turns": ConversationRequest(turns),
        "system": ConversationRequest(turns[:2], system="Answer in one sentence."),
    }
    if "tools" in template:
        response = {"role": "tool", "content": [{"type": "tool_response", "name": "get_weather", "response": "rain"}]}
        history = ({"role": "user", "content": _QUESTION}, {"role": "assistant", "tool_calls": [_CALL]})
        requests["tools"] = ConversationRequest((_QUESTION, turns[0]), tools=(_TOOL,))
        requests["tool response"] = ConversationRequest((response, turns[0]), history=history, tools=(_TOOL,))
    if "enable_thinking" in template:
        requests["thinking"] = ConversationRequest((turns[0], turns[1], turns[2]), enable_thinking=True)
    return requests


def conversation_stage(
    stage: Stage,
    bundle: Path,
    requests: Mapping[str, ConversationRequest],
    reference: ConversationReference,
    max_tokens: int,
    threads: int,
    chat_template: str | None = None,
    context_length: int | None = None,
) -> None:
    """Conversations on stock LiteRT-LM's CPU backend: prompts, ends of turns, thinking and tool calls.

    Args:
        stage: to fill.
        bundle: the .litertlm file.
        requests: from `conversation_requests`.
        reference: the checkpoint's own template and tokenizer.
        max_tokens: of each answer.
        threads: CPU threads.
        chat_template: in place of the bundle's own.
        context_length: to load the bundle with; None for what it asks for.
    """
    if find_spec("litert_lm") is None:
        stage.skip("the prompts are transformers'", "litert-lm is not installed")
        return
    refused: list[str] = []
    held, runs = _hold(bundle, requests, refused, max_tokens, threads, chat_template, context_length)
    stage.holds("LiteRT-LM holds the conversations", refused)
    if not held:
        return
    plain = {name: runs[False][name].turns for name in held}
    found = [_prompt_problems(name, request, plain[name], reference) for name, request in held.items()]
    stage.holds("the prompts are transformers'", [problem for problems, _ in found for problem in problems])
    stage.holds("the prompts' tokens are transformers'", [problem for _, problems in found for problem in problems])
    differ = [_difference(name, plain[name], runs[True][name].turns) for name in held]
    stage.holds("MTP changes no turn", [problem for problem in differ if problem])
    answers = [turn for turns in plain.values() for turn in turns]
    stopped = sum(turn.stopped for turn in answers)
    if stopped:
        stage.note("turns that a stop token ended", f"{stopped} of {len(answers)}")
    else:
        stage.skip("a stop token ends a turn", f"no answer ended within {max_tokens} tokens")
    _thinking(stage, [turn for name, turns in plain.items() if held[name].enable_thinking for turn in turns])
    _calls(stage, [turn for name, turns in plain.items() if held[name].tools for turn in turns], reference)


def _hold(
    bundle: Path,
    requests: Mapping[str, ConversationRequest],
    refused: list[str],
    max_tokens: int,
    threads: int,
    chat_template: str | None,
    context_length: int | None,
) -> tuple[dict[str, ConversationRequest], dict[bool, dict[str, Conversation]]]:
    """All conversations without and with MTP, in one process each; where one fails, each in a process of its own, and
    the reasons of those that fail into `refused`."""
    runs: dict[bool, dict[str, Conversation]] = {}

    def run(chosen: Mapping[str, ConversationRequest], mtp: bool) -> dict[str, Conversation]:
        found = run_conversations(
            bundle,
            list(chosen.values()),
            speculative=mtp,
            threads=threads,
            max_tokens=max_tokens,
            chat_template=chat_template,
            context_length=context_length,
        )
        return dict(zip(chosen, found.conversations, strict=True))

    try:
        return dict(requests), {mtp: run(requests, mtp) for mtp in (False, True)}
    except StockRuntimeError as error:
        if len(requests) == 1:
            refused.append(f"{next(iter(requests))}: {' '.join(str(error).splitlines()[0].split())[-300:]}")
            return {}, runs
    held: dict[str, ConversationRequest] = {}
    runs = {False: {}, True: {}}
    for name, request in requests.items():
        one, found = _hold(bundle, {name: request}, refused, max_tokens, threads, chat_template, context_length)
        held |= one
        for mtp, conversations in found.items():
            runs[mtp] |= conversations
    return held, runs


def _prompt_problems(
    name: str, request: ConversationRequest, turns: Sequence[Turn], reference: ConversationReference
) -> tuple[list[str], list[str]]:
    """Where the rendered text, and where the number of prefilled tokens, is not the reference's."""
    text, tokens = [], []
    messages: list[Mapping[str, Any]] = [{"role": "system", "content": request.system}] if request.system else []
    messages += request.history
    for number, (sent, turn) in enumerate(zip(request.turns, turns, strict=True), 1):
        before, messages = messages, [*messages, *_as_transformers(sent)]
        expected = _grown(before if number > 1 else [], messages, request, reference)
        where = f"{name}, turn {number}"
        if expected is None:
            text.append(f"{where}: transformers' own text does not grow from the turn before")
        elif turn.prompt != expected:
            text.append(f"{where}: {_first_difference(turn.prompt, expected)}")
        elif turn.prompt_tokens != (count := len(reference.encode(reference.start * (number == 1) + expected))):
            tokens.append(f"{where}: {turn.prompt_tokens} tokens were prefilled, expected {count}")
        messages.append(_answer(turn))
    return text, tokens


def _grown(
    before: list[Mapping[str, Any]],
    messages: list[Mapping[str, Any]],
    request: ConversationRequest,
    reference: ConversationReference,
) -> str | None:
    """What the rendered conversation has grown by since `before`, which was rendered without a generation prompt.

    A template may leave out the thinking of an answer once the next question is there; then `before` is taken
    without it.
    """
    variables = dict(request.variables)
    if request.enable_thinking is not None:
        variables["enable_thinking"] = request.enable_thinking

    def rendered(messages: list[Mapping[str, Any]], ask: bool) -> str:
        tools = list(request.tools) or None
        text = reference.render(messages, tools=tools, add_generation_prompt=ask, **variables)
        return text.removeprefix(reference.start)

    whole = rendered(messages, True)
    if not before:
        return whole
    bare: list[Mapping[str, Any]] = [
        {key: value for key, value in message.items() if key != "reasoning_content"} for message in before
    ]
    olds = (rendered(before, False), rendered(bare, False))
    return next((whole[len(old) :] for old in olds if whole.startswith(old)), None)


def _as_transformers(sent: str | Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A message as transformers takes it; LiteRT-LM's responses of tools are parts of one."""
    if isinstance(sent, str):
        return [{"role": "user", "content": sent}]
    parts = sent.get("content")
    if not isinstance(parts, list | tuple) or not any(part.get("type") == "tool_response" for part in parts):
        return [sent]
    return [{"role": "tool", "name": part["name"], "content": part["response"]} for part in parts]


def _answer(turn: Turn) -> Mapping[str, Any]:
    """A turn's answer as transformers takes it."""
    message: dict[str, Any] = {"role": "assistant", "content": turn.text}
    if thought := turn.channels.get(_THOUGHT):
        message["reasoning_content"] = thought.removesuffix("\n")
    if turn.tool_calls:
        message["tool_calls"] = turn.tool_calls
    return message


def _difference(name: str, off: Sequence[Turn], on: Sequence[Turn]) -> str | None:
    """The first turn that MTP changes.

    An answer that was cut is a little longer with MTP, and later turns then differ for a reason of their own.
    """
    for number, (one, other) in enumerate(zip(off, on, strict=True), 1):
        if not one.stopped:
            texts = "".join([*one.channels.values(), one.text]), "".join([*other.channels.values(), other.text])
            return None if one.tool_calls or texts[1].startswith(texts[0]) else f"{name}, turn {number}"
        if (one.prompt, one.message, one.cached_tokens) != (other.prompt, other.message, other.cached_tokens):
            return f"{name}, turn {number}"
    return None


def _thinking(stage: Stage, turns: Sequence[Turn]) -> None:
    if not turns:
        return
    leaked = [f"{turn.text[:60]!r}" for turn in turns if "<|channel>" in turn.text or "<channel|>" in turn.text]
    stage.holds("thinking stays out of the answer", leaked)
    stage.note("turns that think", f"{sum(_THOUGHT in turn.channels for turn in turns)} of {len(turns)}")


def _calls(stage: Stage, turns: Sequence[Turn], reference: ConversationReference) -> None:
    if not turns:
        return
    unparsed = [f"{turn.text[:60]!r}" for turn in turns if reference.call_start in turn.text]
    unparsed += [f"{call!r}" for turn in turns for call in turn.tool_calls if not call.get("function", {}).get("name")]
    stage.holds("tool calls are parsed", unparsed)
    stage.note("turns that call a tool", f"{sum(bool(turn.tool_calls) for turn in turns)} of {len(turns)}")


def _first_difference(text: str, expected: str) -> str:
    pairs = enumerate(zip(text, expected, strict=False))
    at = next((at for at, (one, other) in pairs if one != other), min(len(text), len(expected)))
    return f"{text[at : at + 40]!r} at character {at}, expected {expected[at : at + 40]!r}"
