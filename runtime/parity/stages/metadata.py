"""The stage of what surrounds the graphs: metadata, tokenizer, items and manifest against the checkpoint's files."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from ...bundle.context.placeholder import is_placeholder
from ...bundle.inspection import Inspection
from ...bundle.names import PREFILL_DECODE
from ...errors import UserError
from ..metadata.executor import state_buffer_problems
from ..metadata.fields import message_differences, unknown_fields
from ..metadata.sampling import SamplingReference, sampling_problems
from ..metadata.sections import item_problems, missing_sections, note_problems, sections_not_compared
from ..metadata.tokenizer import TokenizerReference, tokenizer_checks
from ..oracle.oracle import Oracle
from ..report.report import Stage
from .conversation import ConversationReference

Content = TypeVar("Content")
_START, _STOP, _TEMPLATE, _CONTEXT = "start_token", "stop_tokens", "jinja_prompt_template", "max_num_tokens"


@dataclass(frozen=True)
class CheckpointText:
    """What the checkpoint's own files say.

    Attributes:
        stop: every token that one of them calls an end.
        start: the token with which its prompts begin; None if they begin with none.
        differences: where a bundle's chat template gives another prompt than the checkpoint's in transformers, one
            line each.
        conversation: its tokenizer and template in transformers.
        tokenizer: its tokenizer's file and vocabulary.
        sampling: its generation settings.
        llm_metadata: `LlmMetadata` that an export would write, but for `max_num_tokens`.
        executor_metadata: `ExecutorMetadata` that an export would write.
        template_note: what an export would say of the chat template.
        sources: what an export's manifest would say of the checkpoints; reads every byte of them.
    """

    stop: tuple[int, ...]
    start: int | None
    differences: Callable[[str], Sequence[str]]
    conversation: ConversationReference
    tokenizer: TokenizerReference
    sampling: SamplingReference
    llm_metadata: Message
    executor_metadata: Message
    template_note: str
    sources: Callable[[], Mapping[str, Any]]


def metadata_stage(stage: Stage, inspection: Inspection, text: CheckpointText, oracle: Oracle) -> None:
    """Compare all that a bundle holds beside its models with `text` and with the configuration of `oracle`.

    A section that is missing or cannot be read is a failed check.
    """
    bundle = inspection.bundle
    stage.holds("each section is there once", list(missing_sections(bundle)))
    stage.holds("versions and sections' items", list(item_problems(bundle)))
    stage.holds("notes on the file", list(note_problems(bundle, text.template_note)))
    for name in sections_not_compared(bundle):
        stage.skip(f"section {name}", "nothing compares it")
    metadata = _read(stage, "LLM metadata", lambda: bundle.llm_metadata)
    if metadata is not None:
        _token_checks(stage, metadata, text)
        _template_checks(stage, metadata.jinja_prompt_template, text)
        stage.holds("sampling is transformers'", list(sampling_problems(metadata.sampler_params, text.sampling)))
        stage.holds("the maximum of tokens fits", list(_context_problems(metadata, inspection, oracle)))
        _field_checks(stage, "LLM metadata", metadata, text.llm_metadata, (_START, _STOP, _TEMPLATE, _CONTEXT))
    executor = _read(stage, "executor metadata", lambda: bundle.executor_metadata)
    if executor is not None:
        target = inspection.models.get(PREFILL_DECODE)
        if target is not None:
            types = oracle.config.layer_types[: oracle.own_layers]
            window = oracle.config.sliding_window
            found = state_buffer_problems(executor.llm_executor_metadata, target, types, window)
            stage.holds("state buffers are the caches", list(found))
        _field_checks(stage, "executor metadata", executor, text.executor_metadata)
    tokenizer = _read(stage, "tokenizer", bundle.tokenizer)
    if tokenizer is not None:
        tokenizer_checks(stage, *tokenizer, text.tokenizer)


def _read(stage: Stage, name: str, read: Callable[[], Content | None]) -> Content | None:
    """The content of a section; None if it is missing, which `missing_sections` names, or corrupt."""
    try:
        return read()
    except (UserError, DecodeError, zlib.error) as error:
        stage.holds(f"{name} can be read", [" ".join(str(error).split())])
        return None


def _token_checks(stage: Stage, metadata: Any, text: CheckpointText) -> None:
    found = {_ids(stop, text) for stop in metadata.stop_tokens}
    expected = {(token,) for token in text.stop}
    problems = [f"token {shown(stop)} is lost: an answer does not end there" for stop in sorted(expected - found)]
    problems += [f"token {shown(stop)} is none of the checkpoint's" for stop in sorted(found - expected)]
    stage.holds("stop tokens are the checkpoint's", problems)
    start = _ids(metadata.start_token, text) if metadata.HasField(_START) else ()
    wanted = () if text.start is None else (text.start,)
    stage.holds(
        "the start token is the checkpoint's",
        [] if start == wanted else [f"{shown(start)}, expected {shown(wanted)}"],
    )


def _ids(token: Any, text: CheckpointText) -> tuple[int, ...]:
    """Ids of a `TokenUnion`; LiteRT-LM encodes the one that is written out."""
    return tuple(text.tokenizer.encode(token.token_str) if token.HasField("token_str") else token.token_ids.ids)


def _template_checks(stage: Stage, template: str, text: CheckpointText) -> None:
    try:
        differences = list(text.differences(template))
    except UserError as error:
        differences = [str(error)]
    stage.holds("the chat template gives transformers' prompts", differences)
    expected = text.llm_metadata.jinja_prompt_template  # pyright: ignore[reportAttributeAccessIssue]
    problems = []
    if template != expected:
        pairs = enumerate(zip(template, expected, strict=False))
        at = next((at for at, (one, other) in pairs if one != other), min(len(template), len(expected)))
        problems.append(f"{template[at : at + 40]!r} at character {at}, expected {expected[at : at + 40]!r}")
    stage.holds("the chat template is what an export writes", problems)


def _context_problems(metadata: Any, inspection: Inspection, oracle: Oracle) -> Iterator[str]:
    stated, longest = metadata.max_num_tokens, oracle.config.max_position_embeddings
    if stated <= 0:
        yield f"max_num_tokens is {stated}, expected the context's length"
    if stated > longest:
        yield f"max_num_tokens is {stated}, but max_position_embeddings {longest}"
    slots = inspection.slots
    if slots is None:
        return
    if is_placeholder(slots):
        if stated >= slots:
            yield f"max_num_tokens is {stated}, but the placeholder for it {slots}, which LiteRT-LM would round down"
    elif inspection.draft_tokens is not None:
        overshoot = max(inspection.draft_tokens, *inspection.further_draft_tokens, 0) + 1
        if stated > slots - overshoot:
            yield f"max_num_tokens is {stated}, but {slots} slots hold {overshoot} less, as verify runs ahead"


def _field_checks(stage: Stage, name: str, found: Message, expected: Message, without: Sequence[str] = ()) -> None:
    others = "all other fields" if without else "all fields"
    stage.holds(f"{name}: {others} are as an export writes them", list(message_differences(found, expected, without)))
    stage.holds(f"{name}: every field is known", list(unknown_fields(found, name)))


def shown(tokens: Sequence[Any]) -> str:
    """Token ids for people."""
    return ", ".join(map(str, tokens)) or "none"
