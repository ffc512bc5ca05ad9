"""Conversations on stock LiteRT-LM, which renders the template itself, with the small pair's chat adapter."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gemma_mtp.export.bundle.reference import checkpoint_text
from gemma_mtp.export.checkpoint.pair import open_pair
from gemma_mtp.runtime.bundle.inspection import inspect_bundle
from gemma_mtp.runtime.parity.report.report import Stage, Verdict
from gemma_mtp.runtime.parity.stages.conversation import (
    ConversationReference,
    conversation_requests,
    conversation_stage,
)
from gemma_mtp.runtime.parity.stages.metadata import CheckpointText
from gemma_mtp.runtime.stock import Conversation, ConversationRequest, StockRuntimeError, run_conversations
from tests.conftest import DRAFTER, TARGET
from tests.small_pair.dialogues import DIALOGUES, PLAIN, THINKING, TOOLS, Dialogue
from tests.support.metadata import with_metadata

ADAPTER = Path(__file__).parents[1] / "small_pair" / "chat_adapter"
TEMPLATE = (ADAPTER / "chat_template.jinja").read_text("utf-8")
# The same for an engine that knows no methods of Python's dicts.
_WITHOUT_METHODS = re.sub(r"\.get\('(\w+)'\)", r"['\1']", TEMPLATE)
LIMIT = 48


@pytest.fixture(scope="module")
def chat(exports) -> Path:
    """The small target with the chat adapter merged at export: its template, stop tokens and weights."""
    return exports("chat", adapters=(ADAPTER,)) / "model.litertlm"


@pytest.fixture(scope="module")
def packed(chat: Path) -> str:
    """The bundle's own template."""
    return inspect_bundle(chat).bundle.llm_metadata.jinja_prompt_template


@pytest.fixture(scope="module")
def text() -> CheckpointText:
    return checkpoint_text(open_pair(str(TARGET), str(DRAFTER), [str(ADAPTER)]))


@pytest.fixture(scope="module")
def reference(text: CheckpointText) -> ConversationReference:
    return text.conversation


def asked(dialogue: Dialogue) -> ConversationRequest:
    turns = tuple(turn.sent for turn in dialogue.turns)
    return ConversationRequest(turns, dialogue.system, (), dialogue.tools, dialogue.enable_thinking or None)


@pytest.fixture(scope="module")
def held(chat: Path) -> dict[bool, dict[str, Conversation]]:
    """Every dialogue, without and with MTP, by name."""
    requests = [asked(dialogue) for dialogue in DIALOGUES]
    runs = {mtp: run_conversations(chat, requests, speculative=mtp, max_tokens=LIMIT) for mtp in (False, True)}
    assert runs[False].acceptance_rate is None
    assert 0 < (runs[True].acceptance_rate or 0) < 1
    return {mtp: {d.name: c for d, c in zip(DIALOGUES, run, strict=True)} for mtp, run in runs.items()}


@pytest.mark.parametrize("mtp", [False, True])
@pytest.mark.parametrize("dialogue", DIALOGUES, ids=lambda dialogue: dialogue.name)
def test_answers_are_the_dialogues_own(held, dialogue: Dialogue, mtp: bool) -> None:
    for turn, expected in zip(held[mtp][dialogue.name].turns, dialogue.turns, strict=True):
        assert turn.stopped
        assert turn.text == expected.answer.get("content", "")
        assert turn.tool_calls == expected.answer.get("tool_calls", [])
        thinking = expected.answer.get("reasoning_content")
        assert turn.channels == ({"thought": thinking + "\n"} if thinking else {})


def test_mtp_changes_neither_answers_nor_what_is_cached(held) -> None:
    assert held[True] == held[False]


def test_prompts_are_what_the_template_grows_by(held) -> None:
    system, further, _ = (turn.prompt for turn in held[False]["system"].turns)
    asking = "<|turn>user\nWhich keyword defines a function?<turn|>\n<|turn>model\n"
    assert system == f"<|turn>system\nAnswer in one word.<turn|>\n{asking}"
    assert further == "<|turn>user\nAnd a class?<turn|>\n<|turn>model\n"
    response = held[False]["tools"].turns[1].prompt
    assert response == 'response:get_weather{value:<|"|>clear, 21 degrees<|"|>}<tool_response|>'


def test_the_limit_of_tokens_is_no_end_of_a_turn(chat: Path) -> None:
    run = run_conversations(chat, [asked(PLAIN)], speculative=False, max_tokens=5)
    turn = run.conversations[0].turns[0]
    assert (turn.stopped, turn.answer_tokens) == (False, 5)
    assert "Merge sort: split the list, sort both halves and merge them.".startswith(turn.text)


def test_history_is_part_of_the_first_prompt(chat: Path) -> None:
    history = tuple(PLAIN.messages(2)[:-1])
    request = ConversationRequest((PLAIN.turns[2].sent,), history=history)
    run = run_conversations(chat, [request], speculative=False, max_tokens=LIMIT)
    (turn,) = run.conversations[0].turns
    assert turn.prompt.count("<|turn>user\n") == 3
    assert turn.text == PLAIN.turns[2].raw


def test_a_template_that_the_runtime_cannot_render_is_reported_with_its_reason(chat: Path) -> None:
    with pytest.raises(StockRuntimeError, match="unknown method: map has no method named get"):
        run_conversations(chat, [asked(PLAIN)], speculative=False, chat_template=TEMPLATE)


def test_thinking_that_a_template_takes_back_ends_the_conversation(chat: Path) -> None:
    """The released template renders the thinking of the newest answer only, and the runtime wants its text to grow."""
    with pytest.raises(StockRuntimeError, match="does not start with the previous rendered template string"):
        run_conversations(chat, [asked(THINKING)], speculative=False, chat_template=_WITHOUT_METHODS)


def staged(bundle: Path, requests, reference: ConversationReference, template: str | None = None) -> dict[str, Any]:
    stage = Stage("conversation")
    conversation_stage(stage, bundle, requests, reference, LIMIT, 2, template)
    return {check.name: check for check in stage.checks}


def test_stage_passes_on_dialogues(chat: Path, reference: ConversationReference) -> None:
    checks = staged(chat, {d.name: asked(d) for d in (PLAIN, THINKING, TOOLS)}, reference)
    assert {check.verdict for check in checks.values()} <= {Verdict.PASS, Verdict.NOTE}, checks
    assert checks["turns that a stop token ended"].value == "10 of 10"
    assert checks["turns that think"].value == "3 of 3"
    assert checks["turns that call a tool"].value == "2 of 4"


def test_stage_passes_on_its_own_conversations(chat: Path, reference: ConversationReference) -> None:
    requests = conversation_requests(TEMPLATE)
    assert set(requests) == {"one turn", "three turns", "system", "tools", "tool response", "thinking"}
    assert set(conversation_requests("{{ messages }}")) == {"one turn", "three turns", "system"}
    checks = staged(chat, requests, reference)
    assert {check.verdict for check in checks.values()} <= {Verdict.PASS, Verdict.NOTE, Verdict.SKIPPED}, checks


@pytest.mark.parametrize(
    ("change", "check", "problem"),
    [
        (lambda packed: TEMPLATE, "LiteRT-LM holds the conversations", "no method named get"),
        (
            lambda packed: packed.replace("<|turn>' + role", "<|turn> ' + role"),
            "the prompts are transformers'",
            "turn 1: ' ",
        ),
        (lambda packed: "<bos>" + packed, "the prompts are transformers'", "'bos><|turn>user"),
    ],
    ids=["methods", "a space more", "start token twice"],
)
def test_stage_finds_a_template_that_renders_otherwise(
    change: Callable[[str], str], check: str, problem: str, chat: Path, packed: str, reference: ConversationReference
) -> None:
    assert change(packed) != packed
    found = staged(chat, {"plain": asked(PLAIN)}, reference, change(packed))[check]
    assert found.verdict is Verdict.FAIL
    assert problem in str(found.value)


def test_stage_finds_lost_responses_of_tools(chat: Path, reference: ConversationReference) -> None:
    """What the released template makes of LiteRT-LM's own message: it looks for parts of text only."""
    requests = {"tool response": conversation_requests(TEMPLATE)["tool response"]}
    found = staged(chat, requests, reference, _WITHOUT_METHODS)["the prompts are transformers'"]
    assert found.verdict is Verdict.FAIL
    assert "expected 'rain" in str(found.value)


def test_stage_finds_other_tokens(chat: Path, reference: ConversationReference) -> None:
    twice = ConversationReference(reference.render, lambda text: [2, *reference.encode(text)], "<bos>")
    found = staged(chat, {"plain": asked(PLAIN)}, twice)["the prompts' tokens are transformers'"]
    assert found.verdict is Verdict.FAIL
    assert "21 tokens were prefilled, expected 22" in str(found.value)


def thinking_without_a_channel(metadata: Any) -> None:
    metadata.channels[0].start = "<|chanxel>thought\n"


def calls_without_a_fence(metadata: Any) -> None:
    metadata.llm_model_type.gemma4.code_fence_start = "<|tool_calx>"


@pytest.mark.parametrize(
    ("change", "dialogue", "check"),
    [
        (thinking_without_a_channel, THINKING, "thinking stays out of the answer"),
        (calls_without_a_fence, TOOLS, "tool calls are parsed"),
    ],
)
def test_stage_finds_lost_channels_and_fences(
    change: Callable[[Any], None],
    dialogue: Dialogue,
    check: str,
    chat: Path,
    reference: ConversationReference,
    tmp_path: Path,
) -> None:
    faulty = with_metadata(chat, change, tmp_path)
    assert staged(faulty, {dialogue.name: asked(dialogue)}, reference)[check].verdict is Verdict.FAIL
