"""Text in, text out: what a person calls.

from gemma_mtp.runtime.model import load

print(load("out/model.litertlm").generate("Why is the sky blue?").text)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .bundle.loading import OpenBundle, open_bundle
from .decoding.acceptance import rule_for
from .decoding.engine import Engine
from .decoding.generation import Generation, GenerationOptions
from .decoding.schedules import ConstantSchedule, Schedule, schedule_for
from .decoding.session import Session
from .decoding.statistics import Statistics
from .native_output import quiet_litert
from .text.chat_template import render_chat
from .text.litertlm_template import Message
from .text.prompts import Prompt
from .text.stream import TextStream
from .threads import thread_count


class Model:
    """A bundle, compiled. One answer runs at a time; the cache is kept, so a prompt that goes on from an earlier one
    runs only what is new."""

    def __init__(self, bundle: OpenBundle, threads: int) -> None:
        self.bundle = bundle
        with quiet_litert():
            self.engine = Engine(bundle, threads)
        self._session = Session(self.engine, bundle.rules.context_length)

    def stream(
        self, prompt: str | Sequence[Message], options: GenerationOptions | None = None, **variables: Any
    ) -> Generation:
        """Begin an answer to `prompt`: a user's message, or a whole chat as `{"role": ..., "content": ...}` messages.

        `variables` are what the chat template shall see beside them: `tools`, `enable_thinking`, ...

        Raises:
            UserError: the prompt fills the context, an option does not fit the bundle, or the template cannot render
                the messages or does not read a variable.
        """
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        return self.stream_text(self.render(messages, **variables), options)

    def stream_prompt(self, prompt: Prompt, options: GenerationOptions | None = None) -> Generation:
        """Begin an answer to a prompt of a file or a command line; errors as of `stream`."""
        return self.stream_text(self.text_of(prompt), options)

    def stream_text(self, text: str, options: GenerationOptions | None = None) -> Generation:
        """Go on from `text` as it is, without the chat template; the start token is put before it if it lacks it.

        Raises:
            UserError: see `stream`.
        """
        return self.stream_tokens(self.encode(text), options)

    def stream_tokens(self, tokens: Sequence[int], options: GenerationOptions | None = None) -> Generation:
        """Go on from `tokens` as they are.

        Raises:
            UserError: see `stream`.
        """
        options = options or GenerationOptions()
        schedule, statistics = self._schedule(options), Statistics()
        self._session.check(tokens)
        rounds = self._session.rounds(
            tokens,
            rule_for(options.sampling),
            schedule,
            max_tokens=options.max_tokens,
            threshold=options.confidence,
            statistics=statistics,
        )
        stream = TextStream(self.bundle.tokenizer.decode, options.stop_strings)
        return Generation(
            rounds, statistics, stream, self.engine.clock, is_stop=self._is_stop, max_tokens=options.max_tokens
        )

    def generate(
        self, prompt: str | Sequence[Message], options: GenerationOptions | None = None, **variables: Any
    ) -> Generation:
        """The whole answer to `prompt`; arguments and errors as of `stream`."""
        return self.stream(prompt, options, **variables).finish()

    def reset(self) -> None:
        """Forget all earlier prompts and answers."""
        self._session.reset()

    def render(self, messages: Sequence[Message], **variables: Any) -> str:
        """The text of a chat, by the bundle's template, with the start token's if the template writes it.

        Raises:
            UserError: see `render_chat`.
        """
        rules = self.bundle.rules
        return render_chat(rules.chat_template, messages, self.bundle.tokenizer.decode(rules.start), variables)

    def text_of(self, prompt: Prompt) -> str:
        """The text of `prompt` as the model reads it; errors as of `render`."""
        return self.render(prompt.messages, **prompt.variables) if prompt.text is None else prompt.text

    def encode(self, text: str) -> list[int]:
        """Tokens of `text`, with the start token before them if `text` lacks it."""
        tokens, start = self.bundle.tokenizer.encode(text), list(self.bundle.rules.start)
        return tokens if tokens[: len(start)] == start else start + tokens

    def _schedule(self, options: GenerationOptions) -> Schedule:
        contract = self.bundle.contract
        cannot_draft = contract.max_draft_tokens == 0 and options.draft_tokens is None
        if not options.mtp or cannot_draft:
            return ConstantSchedule(0)
        return schedule_for(
            options.schedule,
            options.draft_tokens,
            default=contract.default_draft_tokens,
            longest=contract.max_draft_tokens,
        )

    def _is_stop(self, tokens: list[int]) -> bool:
        return any(tuple(tokens[-len(stop) :]) == stop for stop in self.bundle.rules.stop)


class Conversation:
    """Turns with one model; every turn's prompt is all turns before it, of which the cache holds most."""

    def __init__(
        self, model: Model, options: GenerationOptions | None = None, system: str | None = None, **variables: Any
    ) -> None:
        """Begin a chat; `variables` are what the template shall see at every turn: `tools`, `enable_thinking`, ..."""
        self.model = model
        self.variables = variables
        self.options = options
        self.messages: list[Message] = [{"role": "system", "content": system}] if system else []
        self._answer: Generation | None = None

    def stream(self, message: str | Message) -> Generation:
        """Begin the answer to the next message, a user's text or a message such as a tool's; what came of it is
        remembered at the next one.

        Raises:
            UserError: the conversation fills the context; it is left as it was.
        """
        new = {"role": "user", "content": message} if isinstance(message, str) else message
        messages = [*self.messages, *self._last_answer(), new]
        answer = self.model.stream(messages, self.options, **self.variables)
        self.messages, self._answer = messages, answer
        return answer

    def send(self, message: str | Message) -> Generation:
        """The whole answer to the next message; errors as of `stream`."""
        return self.stream(message).finish()

    def _last_answer(self) -> list[Message]:
        return [{"role": "assistant", "content": self._answer.text}] if self._answer else []


def load(path: str | Path, threads: int | None = None, context_length: int | None = None) -> Model:
    """Open and compile a bundle: a .litertlm file, or an export's folder.

    Args:
        path: the file or folder.
        threads: CPU threads; all cores, at most 4, by default.
        context_length: prompt and answer together, in tokens; caches and every step cost less for a shorter one. What
            the bundle asks for by default.

    Raises:
        UserError: see `open_bundle` and `thread_count`; or LiteRT refuses a model.
    """
    return Model(open_bundle(Path(path), context_length=context_length), thread_count(threads))
