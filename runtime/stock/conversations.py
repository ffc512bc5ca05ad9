"""Conversations, which is how apps use LiteRT-LM: it renders the bundle's chat template itself, turn by turn."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .child import open_engine, run_child

Message = Mapping[str, Any]


@dataclass(frozen=True)
class ConversationRequest:
    """A conversation to hold.

    `turns` are sent one after another: a string is a user message; a message object may be anything LiteRT-LM takes,
    the response of a tool for one. `history` is what was said before them. `tools` are function declarations in JSON.
    `variables` are handed to the chat template beside messages and tools, `enable_thinking` among them where it is
    not None.
    """

    turns: tuple[str | Message, ...]
    system: str | None = None
    history: tuple[Message, ...] = ()
    tools: tuple[Message, ...] = ()
    enable_thinking: bool | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Turn:
    """One turn.

    Attributes:
        prompt: what the runtime rendered for it, without the start token, which it puts before the first. From the
            second turn on that is only what the rendered conversation has grown by.
        prompt_tokens: how many tokens it prefilled, the start token included.
        message: the answer as the runtime gives it back.
        text: the answer's text without channels and tool calls.
        channels: text by name of channel, `thought` for one.
        tool_calls: as the runtime parsed them, `{"type": "function", "function": {"name": ..., "arguments": {...}}}`.
        answer_tokens: how many tokens it decoded; the stop token counts without speculative decoding only.
        cached_tokens: how many tokens the cache holds after it.
        stopped: whether a stop token ended the answer, not the limit of tokens or the context's end.
    """

    prompt: str
    prompt_tokens: int
    message: dict[str, Any]
    answer_tokens: int
    cached_tokens: int
    stopped: bool

    @property
    def text(self) -> str:
        content = self.message.get("content") or []
        parts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
        return "".join(parts)

    @property
    def channels(self) -> dict[str, str]:
        return self.message.get("channels") or {}

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        return self.message.get("tool_calls") or []


@dataclass(frozen=True)
class Conversation:
    """The turns of one conversation."""

    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class ConversationRun:
    """What came out, and the share of drafted tokens that the target accepted over all conversations (None without
    speculative decoding)."""

    conversations: tuple[Conversation, ...]
    acceptance_rate: float | None

    def __iter__(self) -> Iterator[Conversation]:
        return iter(self.conversations)


def run_conversations(
    bundle: Path,
    conversations: Sequence[ConversationRequest],
    *,
    speculative: bool,
    backend: str = "cpu",
    threads: int = 2,
    max_tokens: int | None = None,
    chat_template: str | None = None,
    context_length: int | None = None,
) -> ConversationRun:
    """Hold `conversations` greedily on stock LiteRT-LM; tool calls come back, no tool is called.

    Args:
        bundle: the .litertlm file.
        conversations: each is held in a conversation object of its own.
        speculative: with the drafter or without.
        backend: `cpu` or `gpu`.
        threads: CPU threads.
        max_tokens: of each answer, thinking and tool calls included; with speculative decoding the runtime finishes
            the round in which it reaches it.
        chat_template: in place of the bundle's own.
        context_length: what the app asks for, in tokens; None for what the bundle does.

    Raises:
        StockRuntimeError: the runtime failed, for example to render the template, or did not report an acceptance
            rate though it should have.
    """
    request = {
        "bundle": str(bundle),
        "conversations": [_as_json(conversation) for conversation in conversations],
        "speculative": speculative,
        "backend": backend,
        "threads": threads,
        "max_tokens": max_tokens,
        "chat_template": chat_template,
        "context_length": context_length,
    }
    result, acceptance = run_child("conversations", request)
    held = (Conversation(tuple(Turn(**turn) for turn in turns)) for turns in result["conversations"])
    return ConversationRun(tuple(held), acceptance)


def _as_json(conversation: ConversationRequest) -> dict[str, Any]:
    system = [{"role": "system", "content": conversation.system}] if conversation.system is not None else []
    thinking = {} if conversation.enable_thinking is None else {"enable_thinking": conversation.enable_thinking}
    return {
        "messages": [*system, *map(dict, conversation.history)],
        "tools": [dict(tool) for tool in conversation.tools],
        "extra_context": {**conversation.variables, **thinking},
        "turns": [turn if isinstance(turn, str) else dict(turn) for turn in conversation.turns],
    }


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """In the child process."""
    with (
        tempfile.TemporaryDirectory(prefix="gemma-mtp-cache-") as cache,
        # Only its benchmark mode counts tokens; what it computes is the same.
        open_engine(request, cache, enable_benchmark=True) as engine,
    ):
        return {"conversations": [_hold(engine, request, asked) for asked in request["conversations"]]}


def _hold(engine: Any, request: dict[str, Any], asked: dict[str, Any]) -> list[dict[str, Any]]:
    import litert_lm

    conversation = engine.create_conversation(
        messages=asked["messages"],
        tools=[_declared(tool) for tool in asked["tools"]],
        automatic_tool_calling=False,
        extra_context=asked["extra_context"],
        sampler_config=litert_lm.SamplerConfig(top_k=1, top_p=1.0, temperature=1.0),
        max_output_tokens=request["max_tokens"],
        chat_template=request["chat_template"],
    )
    turns = []
    with conversation, litert_lm.ModelInfo(request["bundle"]) as about:
        for sent in asked["turns"]:
            prompt = conversation.render_message_to_string(sent)
            message = conversation.send_message(sent)
            counts = conversation.get_benchmark_info()
            decoded = counts.last_decode_token_count
            cached = conversation.token_count
            full = cached >= (request["context_length"] or about.max_context_tokens)
            limited = request["max_tokens"] is not None and decoded >= request["max_tokens"]
            turns.append(
                {
                    "prompt": prompt,
                    "prompt_tokens": counts.last_prefill_token_count,
                    "message": message.to_json(),
                    "answer_tokens": decoded,
                    "cached_tokens": cached,
                    "stopped": not full and not limited,
                }
            )
    return turns


def _declared(declaration: dict[str, Any]) -> Any:
    """A tool of LiteRT-LM's Python API with this declaration, which is never called."""
    import litert_lm

    class Declared(litert_lm.Tool):
        def get_tool_description(self) -> dict[str, Any]:
            return declaration

        def execute(self, param: Mapping[str, Any]) -> Any:
            raise NotImplementedError

    return Declared()
