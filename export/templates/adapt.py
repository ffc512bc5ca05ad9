"""A chat template for LiteRT-LM that gives the prompts that transformers gives, or where it does not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, zip_longest
from typing import Any, Literal

import jinja2
import jinja2.meta

from ...runtime.errors import UserError
from ...runtime.text.template_source import cut
from . import prologue
from .conversations import CONVERSATIONS, PARTS_BY_ROLE, AnsweredConversation, Conversation, Message
from .engines import RefusedError, RuntimeEngine, TransformersEngine
from .rewrite import Change, Rewritten, rewrite
from .statements import without_generation

Verdict = Literal["unchanged", "rewritten", "differs"]
_EXCERPT = 60
# How Python prints a list of parts: a template that was made for strings alone.
_PRINTED_PARTS = "{'type': 'text'"


@dataclass(frozen=True)
class Difference:
    """Where the two engines part: the texts around the first character that differs, or the words of a refusal."""

    conversation: str
    transformers: str
    runtime: str

    def __str__(self) -> str:
        return f"{self.conversation!r}: transformers gives {self.transformers!r}, LiteRT-LM {self.runtime!r}"


@dataclass(frozen=True)
class Adapted:
    """What to pack, and what is known of it.

    `template` is the text for `jinja_prompt_template`; with the verdict "differs", the one that comes closest.
    `changes` shows each rewritten tag; `prologue` is what was put before the first, empty if nothing. `conversations`
    were tried; `refused` names those that transformers refuses, too. `starts_with_bos` is false where transformers'
    prompts do not begin with the start token, so that the bundle must not name one. `not_growing` names conversations
    whose last turn LiteRT-LM refuses since the text before it is not a beginning of the whole.
    """

    template: str
    verdict: Verdict
    changes: tuple[Change, ...] = ()
    prologue: str = ""
    conversations: int = 0
    refused: tuple[str, ...] = ()
    difference: Difference | None = None
    starts_with_bos: bool = True
    not_growing: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Expected:
    """What transformers makes of a conversation, without the start token; None where it has no prompt to equal."""

    conversation: Conversation
    text: str | None
    refusal: RefusedError | None = None


@dataclass(frozen=True)
class _Candidate:
    template: str
    changes: tuple[Change, ...] = ()
    prologue: str = ""
    verdict: Verdict = "rewritten"


def adapt_template(
    template: str,
    special_tokens: Mapping[str, str] | None = None,
    *,
    conversations: Sequence[Conversation] = CONVERSATIONS,
    name: str = "the chat template",
) -> Adapted:
    """The form of `template` that renders on LiteRT-LM's engine as `template` does in transformers.

    `special_tokens` are the tokenizer's, by name (`bos_token`, ...). A template that is equal as it is stays as it is;
    otherwise the smallest of some rewritings that is equal on all `conversations`, byte for byte, is taken. A text in
    one part counts as the string that transformers' users write, since LiteRT-LM makes no difference between the two.

    Raises:
        UserError: `template`, called `name`, is not Jinja, or transformers renders it for no conversation.
    """
    tokens = dict(special_tokens or {})
    used = _used_variables(template, name)
    oracle = TransformersEngine(tokens)
    joined = _roles_without_parts(template, oracle)
    expected, starts = _expectations(template, conversations, oracle, joined, tokens.get("bos_token", ""))
    if all(each.text is None for each in expected):
        raise UserError(
            f"{name}: transformers renders it for none of {len(expected)} conversations "
            f"({expected[0].refusal}); mend the template"
        )
    runtime = RuntimeEngine()
    candidates = list(_candidates(template, used, tokens, joined))
    equal = [each for each in candidates if not _differences(each, expected, runtime, most=1)]
    growing = (each for each in equal if not _not_growing(each.template, expected, runtime))
    closest = next(growing, equal[0] if equal else None)
    differences: list[Difference] = []
    if closest is None:
        counted = [(len(_differences(each, expected, runtime)), at) for at, each in enumerate(candidates)]
        closest = candidates[min(counted)[1]]
        differences = _differences(closest, expected, runtime, most=1)
    return Adapted(
        template=closest.template,
        verdict="differs" if differences else closest.verdict,
        changes=closest.changes,
        prologue=closest.prologue,
        conversations=len(expected),
        refused=tuple(each.conversation.name for each in expected if each.text is None),
        difference=differences[0] if differences else None,
        starts_with_bos=starts,
        not_growing=_not_growing(closest.template, expected, runtime),
    )


def compare_templates(
    template: str,
    packed: str,
    special_tokens: Mapping[str, str] | None = None,
    *,
    conversations: Sequence[Conversation] = CONVERSATIONS,
) -> tuple[Difference, ...]:
    """Where LiteRT-LM's prompts by `packed` are not transformers' by `template`; empty if they are the same.

    As in `adapt_template`, for a template from elsewhere, such as a bundle's.
    """
    tokens = dict(special_tokens or {})
    oracle = TransformersEngine(tokens)
    joined = _roles_without_parts(template, oracle)
    expected, _ = _expectations(template, conversations, oracle, joined, tokens.get("bos_token", ""))
    return tuple(_differences(_Candidate(packed), expected, RuntimeEngine()))


def _used_variables(template: str, name: str) -> set[str]:
    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
    try:
        # As `with` blocks, transformers' `generation` blocks are Jinja, too; a template that ends in a tag has an end.
        cut(template)
        return jinja2.meta.find_undeclared_variables(environment.parse(_without_generation(template)))
    except (jinja2.TemplateSyntaxError, ValueError) as error:
        found = f"line {error.lineno}: {error.message}" if isinstance(error, jinja2.TemplateSyntaxError) else error
        raise UserError(f"{name} is not valid Jinja ({found}); mend the template") from error
    except RecursionError as error:
        raise UserError(f"{name} is nested too deeply for Jinja; mend the template") from error


def _without_generation(template: str) -> str:
    return "".join(part.source for part in without_generation(cut(template))[0])


def _roles_without_parts(template: str, oracle: TransformersEngine) -> tuple[str, ...]:
    """Roles whose text transformers takes as a string only: it refuses parts or prints them as Python does."""

    def takes(conversation: Conversation) -> bool:
        try:
            return _PRINTED_PARTS not in oracle.render(template, conversation)
        except RefusedError:
            return False

    return tuple(role for role, conversation in PARTS_BY_ROLE.items() if not takes(conversation))


def _expectations(
    template: str,
    conversations: Sequence[Conversation],
    oracle: TransformersEngine,
    joined: Sequence[str],
    start: str,
) -> tuple[list[_Expected], bool]:
    found = [_expectation(template, each, oracle, joined) for each in conversations]
    texts = [each.text for each in found if each.text is not None]
    starts = bool(start) and all(text.startswith(start) for text in texts)
    if not starts:
        return found, False
    return [replace(each, text=each.text and each.text.removeprefix(start)) for each in found], True


def _expectation(
    template: str, conversation: Conversation, oracle: TransformersEngine, joined: Sequence[str]
) -> _Expected:
    in_strings = [_joined(message) if message["role"] in joined else message for message in conversation.messages]
    try:
        text = oracle.render(template, replace(conversation, messages=in_strings))
    except RefusedError as refusal:
        return _Expected(conversation, None, refusal)
    if _PRINTED_PARTS in text or "{'type': 'image'" in text:
        return _Expected(conversation, None, RefusedError("content in parts is printed as a Python list"))
    return _Expected(conversation, text)


def _joined(message: Message) -> Message:
    content = message.get("content")
    if not isinstance(content, list) or any(part["type"] != "text" for part in content):
        return message
    return {**message, "content": "".join(part["text"] for part in content)}


def _candidates(
    template: str, used: set[str], tokens: Mapping[str, str], joined: Sequence[str]
) -> Iterator[_Candidate]:
    """From the template as it is to the most that can be done, in the order of preference."""
    yield _Candidate(template, verdict="unchanged")
    start = tokens.get("bos_token", "")
    base = template.replace(start, "", 1) if start else template
    variables, messages = prologue.variables(used, tokens), prologue.messages(joined)
    for rewritten in (Rewritten(base, (), ()), rewrite(base), rewrite(base, values=True)):
        for before in dict.fromkeys(("", variables, messages, variables + messages)):
            before += prologue.helpers(rewritten.template)
            yield _Candidate(before + rewritten.template, rewritten.changes, before)


def _differences(
    candidate: _Candidate, expected: Sequence[_Expected], runtime: RuntimeEngine, *, most: int | None = None
) -> list[Difference]:
    """The first `most` differences, or all."""
    found = (_difference(candidate.template, each, runtime) for each in expected)
    return list(islice((each for each in found if each is not None), most))


def _difference(template: str, expected: _Expected, runtime: RuntimeEngine) -> Difference | None:
    name = expected.conversation.name
    if expected.text is None and not (expected.refusal and expected.refusal.deliberate):
        return None
    try:
        text = runtime.render(template, expected.conversation)
    except RefusedError as refusal:
        return None if expected.text is None else Difference(name, expected.text[:_EXCERPT], f"refuses: {refusal}")
    if expected.text is None:
        return Difference(name, f"refuses: {expected.refusal}", text[:_EXCERPT])
    if text == expected.text:
        return None
    at = next(at for at, pair in enumerate(zip_longest(expected.text, text)) if pair[0] != pair[1])
    begin = max(0, at - _EXCERPT // 2)
    return Difference(name, expected.text[begin : begin + _EXCERPT], text[begin : begin + _EXCERPT])


def _not_growing(template: str, expected: Sequence[_Expected], runtime: RuntimeEngine) -> tuple[str, ...]:
    """LiteRT-LM renders the history and the history with the new message, and prefills what the second adds
    (`GetSingleTurnTextFromFullHistory`, runtime/conversation/conversation.cc)."""
    return tuple(
        each.conversation.name for each in expected if each.text is not None and not _grows(template, each, runtime)
    )


def _grows(template: str, expected: _Expected, runtime: RuntimeEngine) -> bool:
    whole = expected.conversation
    reasoned = any("reasoning_content" in message for message in whole.messages)
    if reasoned and not isinstance(whole, AnsweredConversation):
        return True  # History that an app gives is rendered once, not turn by turn.
    if len(whole.messages) < 3 or whole.messages[-1]["role"] not in ("user", "tool") or not whole.add_generation_prompt:
        return True
    before: dict[str, Any] = {"messages": whole.messages[:-1], "add_generation_prompt": False}
    try:
        return runtime.render(template, whole).startswith(runtime.render(template, replace(whole, **before)))
    except RefusedError:
        return True
