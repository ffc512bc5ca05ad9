"""Stock LiteRT-LM itself renders as `RuntimeEngine` says, and hands messages over as `Conversation.as_runtime` says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import litert_lm
import pytest

from gemma_mtp.export.templates import prologue
from gemma_mtp.export.templates.adapt import adapt_template
from gemma_mtp.export.templates.conversations import CONVERSATIONS, Conversation
from gemma_mtp.export.templates.engines import RefusedError, TransformersEngine
from gemma_mtp.export.templates.rewrite import rewrite
from gemma_mtp.runtime.text.litertlm_template import render as render_as_runtime
from tests.templates.test_adapting import TEMPLATES, TOKENS, WITHOUT_START, read
from tests.templates.test_rewriting import DATA, LACKING, LACKING_IN_VALUES, SHARED

# LiteRT-LM gives an empty text for a failure; a text that ends in this is none.
END = "@"
GIVEN = {"messages": [], "add_generation_prompt": True, "bos_token": "", "eos_token": ""}


@pytest.fixture(scope="module")
def engine(small_fp32: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[litert_lm.Engine]:
    cache = tmp_path_factory.mktemp("cache")
    backend = litert_lm.Backend.CPU(thread_count=1)
    with litert_lm.Engine(str(small_fp32 / "model.litertlm"), backend=backend, cache_dir=str(cache)) as engine:
        yield engine


def stock_text(engine: litert_lm.Engine, template: str, message: Any = "x", **options: Any) -> str | None:
    """The text, or None where LiteRT-LM fails. `extra_context` can replace every variable."""
    conversation = engine.create_conversation(chat_template=f'{template}{{{{ "{END}" }}}}', **options)
    try:
        text = conversation.render_message_to_string(message)
    finally:
        conversation.close()
    return text.removesuffix(END) if text else None


@pytest.mark.parametrize(
    "template",
    [*LACKING.values(), *LACKING_IN_VALUES.values(), *SHARED.values(), "{{ 'a' | urlencode }}", "{{ now() }}"],
)
def test_stock_renders_as_the_engine_says(template: str, engine: litert_lm.Engine) -> None:
    for source in (template, rewrite(template).template, rewrite(template, values=True).template):
        whole = prologue.helpers(source) + source
        try:
            expected = render_as_runtime(whole, {**GIVEN, **DATA})
        except RefusedError:
            expected = None
        assert stock_text(engine, whole, extra_context={**GIVEN, **DATA}) == expected


@pytest.mark.parametrize("name", TEMPLATES)
def test_adapted_templates_give_transformers_prompts(name: str, engine: litert_lm.Engine) -> None:
    adapted = adapt_template(read(name), TOKENS)
    start = "" if name in WITHOUT_START else TOKENS["bos_token"]
    compared = 0
    for conversation in filter(_can_be_sent, CONVERSATIONS):
        if conversation.name in adapted.refused or "parts" in conversation.name:
            continue
        *earlier, last = conversation.messages
        options: dict[str, Any] = {"messages": earlier} if earlier else {}
        if conversation.variables:
            options["extra_context"] = dict(conversation.variables)
        text = stock_text(engine, adapted.template, last, **options)
        assert text is not None, conversation.name
        assert start + text == TransformersEngine(TOKENS).render(read(name), conversation), conversation.name
        compared += 1
    assert compared >= 8


def _can_be_sent(conversation: Conversation) -> bool:
    """By the binding's own calls: a last message of the user, no tools (it takes Python functions only)."""
    plain = type(conversation) is Conversation and conversation.tools is None and conversation.add_generation_prompt
    return plain and conversation.messages[-1]["role"] == "user"
