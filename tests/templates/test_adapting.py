"""Whole templates, of the kinds that people tune with: packed as they are, rewritten, or shown to differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gemma_mtp.export.templates import methods
from gemma_mtp.export.templates.adapt import Adapted, adapt_template, compare_templates
from gemma_mtp.export.templates.conversations import CONVERSATIONS, Conversation
from gemma_mtp.export.templates.engines import RefusedError, RuntimeEngine, TransformersEngine
from gemma_mtp.runtime.errors import UserError

DATA = Path(__file__).parent / "data"
TOKENS = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
TEMPLATES = sorted(path.stem for path in DATA.glob("*.jinja"))
BY_NAME = {conversation.name: conversation for conversation in CONVERSATIONS}
# Families whose prompts do not begin with a start token.
WITHOUT_START = {"chatml", "chatml_crlf", "chatml_default_system", "think_tools"}


def read(name: str) -> str:
    return (DATA / f"{name}.jinja").read_bytes().decode()


@pytest.fixture(scope="module")
def adapted() -> dict[str, Adapted]:
    return {name: adapt_template(read(name), TOKENS) for name in TEMPLATES}


def test_conversations_have_names_of_their_own() -> None:
    assert len(BY_NAME) == len(CONVERSATIONS)


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_family_renders_as_in_transformers(name: str, adapted: dict[str, Adapted]) -> None:
    result = adapted[name]
    assert result.difference is None
    assert result.verdict == ("unchanged" if name == "gemma_parts" else "rewritten")
    # Not through `compare_templates`, so that it cannot be wrong in both.
    start = "" if name in WITHOUT_START else "<bos>"
    assert result.starts_with_bos == bool(start)
    equal = 0
    for conversation in CONVERSATIONS:
        if conversation.name in result.refused or "parts" in conversation.name:
            continue
        expected = TransformersEngine(TOKENS).render(read(name), conversation)
        assert start + RuntimeEngine().render(result.template, conversation) == expected, conversation.name
        equal += 1
    assert equal >= 20


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "gemma_parts"])
def test_packed_as_it_is_it_would_differ(name: str, adapted: dict[str, Adapted]) -> None:
    assert compare_templates(read(name), read(name), TOKENS)
    assert not compare_templates(read(name), adapted[name].template, TOKENS)


def test_what_is_equal_stays_as_it_is(adapted: dict[str, Adapted]) -> None:
    result = adapted["gemma_parts"]
    assert (result.template, result.changes, result.prologue) == (read("gemma_parts"), (), "")


def test_a_rewritten_template_keeps_its_text(adapted: dict[str, Adapted]) -> None:
    result = adapted["turns_with_get"]
    assert result.template.startswith(result.prologue)
    original, packed = read("turns_with_get"), result.template.removeprefix(result.prologue)
    for change in result.changes:
        assert change.before in original
        assert change.after in packed
    before, after = original.splitlines(), packed.splitlines()
    touched = {change.line for change in result.changes}
    assert len(before) == len(after)
    assert all(a == b for line, (a, b) in enumerate(zip(before, after, strict=True), 1) if line not in touched)
    assert not any(".get(" in line for line in after)


def test_adapting_is_deterministic_and_final(adapted: dict[str, Adapted]) -> None:
    result = adapted["turns_with_get"]
    assert adapt_template(read("turns_with_get"), TOKENS) == result


def test_refusals_of_both_count_as_equal(adapted: dict[str, Adapted]) -> None:
    result = adapted["gemma_alternating"]
    assert {"system", "two user messages in a row"} <= set(result.refused)
    for name in ("system", "two user messages in a row"):
        with pytest.raises(RefusedError, match=r"not supported|alternate"):
            RuntimeEngine().render(result.template, BY_NAME[name])


def test_a_missing_refusal_is_a_difference() -> None:
    template = read("gemma_alternating")
    lenient = adapt_template(template, TOKENS).template.replace("raise_exception('Roles must alternate')", "''")
    names = {difference.conversation for difference in compare_templates(template, lenient, TOKENS)}
    assert "two user messages in a row" in names


def test_text_in_one_part_is_the_string_that_transformers_takes() -> None:
    template = "{% for m in messages %}{% if m.content is string %}S{{ m.content }}{% else %}P{% endif %}{% endfor %}"
    result = adapt_template(template)
    assert result.verdict == "rewritten"
    assert RuntimeEngine().render(result.template, BY_NAME["one turn"]) == "SHi!"
    assert RuntimeEngine().render(result.template, BY_NAME["text in two parts"]) == "P"


def test_parts_are_joined_for_a_template_of_strings(adapted: dict[str, Adapted]) -> None:
    text = RuntimeEngine().render(adapted["chatml"].template, BY_NAME["text in two parts"])
    assert "<|im_start|>user\nHi  there!<|im_end|>" in text


def test_a_system_message_printed_as_a_list_is_joined(adapted: dict[str, Adapted]) -> None:
    text = RuntimeEngine().render(adapted["release_day"].template, BY_NAME["system in two parts"])
    assert text.startswith("<|turn>system\nBe terse.<turn|>\n")


def test_answers_of_tools_called_by_the_runtime(adapted: dict[str, Adapted]) -> None:
    text = RuntimeEngine().render(adapted["think_tools"].template, BY_NAME["tool called by the runtime"])
    assert "<tool_response>\nsunny\n</tool_response>" in text


def test_templates_whose_history_does_not_grow_are_named(adapted: dict[str, Adapted]) -> None:
    assert "several turns" in adapted["think_tools"].not_growing
    assert adapted["turns_with_get"].not_growing == ()


@pytest.mark.parametrize(
    ("template", "conversation", "transformers", "runtime"),
    [
        ("{{ messages | tojson(ensure_ascii=True) }}", "one turn", "Hi!", "refuses: too many arguments"),
        ("{{ messages[0].role }}{{ [1, none] | join(',') }}", "one turn", "user1,None", "user1,none"),
        ("{{ messages[0].content | truncate(3) }}", "one turn", "Hi!", "refuses: unknown filter"),
        ("{{ messages[0].role.swapcase() }}", "one turn", "USER", "refuses: unknown method"),
        ("{{ bos_token }}{{ messages[-1].role }}{{ bos_token }}", "one turn", "user<bos>", "user"),
    ],
)
def test_what_cannot_be_made_equal_differs(template: str, conversation: str, transformers: str, runtime: str) -> None:
    result = adapt_template(template, TOKENS)
    assert result.verdict == "differs"
    assert result.difference is not None
    assert result.difference.conversation == conversation
    assert transformers in result.difference.transformers
    assert result.difference.runtime.startswith(runtime)


def test_a_difference_in_one_conversation_only_is_found() -> None:
    template = "{% for m in messages %}{{ m.content if m.role != 'tool' else m.content.swapcase() }}{% endfor %}"
    difference = adapt_template(template).difference
    assert difference is not None
    assert difference.conversation == "tool answer in two parts"


def test_a_wrong_rewriting_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = methods._METHODS["get"]
    monkeypatch.setitem(methods._METHODS, "get", lambda node, key, default=None: right(node, key))
    result = adapt_template(read("gemma_tuning"), TOKENS)
    assert result.verdict == "differs"
    assert result.difference is not None
    assert "user" in result.difference.transformers


def test_an_excerpt_shows_where_the_texts_part() -> None:
    template = "{{ 'x' * 500 }}{% for m in messages %}{{ m.role }}{% endfor %}{{ 'z' * 500 }}"
    (difference, *_) = compare_templates(template, template.replace("m.role", "m.role | upper"))
    assert difference.transformers == "x" * 30 + "user" + "z" * 26
    assert difference.runtime == "x" * 30 + "USER" + "z" * 26


@pytest.mark.parametrize(
    "template", ["{% if messages %}x", "{{ messages[0 }}", "{{ x", "{# x", "{% nonsense %}", "a\n{% endfor %}"]
)
def test_a_syntax_error_is_the_users(template: str) -> None:
    with pytest.raises(UserError, match=r"^chat\.jinja is not valid Jinja \(line \d.*; mend the template$"):
        adapt_template(template, name="chat.jinja")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('never') }}", "never"),
        ("{{ messages[0].content | no_such_filter }}", "no_such_filter"),
        ("{% for m in messages %}{{ nothing.at.all }}{% endfor %}", "nothing"),
    ],
)
def test_a_template_that_renders_nothing_is_the_users(template: str, reason: str) -> None:
    with pytest.raises(UserError, match=rf"^chat\.jinja.*{reason}.*; mend the template$"):
        adapt_template(template, name="chat.jinja")


def test_the_date_of_today() -> None:
    template = "{{ strftime_now('%d %b %Y') }}{{ messages[0].content.strip() }}"
    assert adapt_template(template).verdict == "rewritten"


def test_an_endless_template_ends() -> None:
    loop = "{% for x in range(99999) %}" * 3 + "{% endfor %}" * 3
    with pytest.raises(RefusedError):
        RuntimeEngine().render(loop, BY_NAME["one turn"])
    with pytest.raises(RefusedError, match="not done after"):
        TransformersEngine(seconds=0.2).render(loop, BY_NAME["one turn"])


def test_variables_that_the_runtime_leaves_out() -> None:
    template = (
        "{% if tools is not none %}T{% endif %}{{ documents is none and messages[-1].role.upper() }}{{ pad_token }}"
    )
    result = adapt_template(template, TOKENS)
    assert result.difference is None
    assert RuntimeEngine().render(result.template, BY_NAME["one turn"]) == "USER<pad>"


def test_a_start_token_written_out_is_left_to_the_runtime() -> None:
    template = "<bos>{% for m in messages %}{{ m.role }}{% endfor %}"
    result = adapt_template(template, TOKENS)
    assert (result.verdict, result.starts_with_bos) == ("rewritten", True)
    assert RuntimeEngine().render(result.template, BY_NAME["one turn"]) == "user"


def test_an_app_may_leave_out_messages_own_names() -> None:
    conversation = Conversation("bare", [{"role": "user", "content": "Hi!"}])
    assert conversation.as_runtime() == [{"role": "user", "content": [{"type": "text", "text": "Hi!"}]}]
    assert replace(conversation, tools=[]).tools == []
