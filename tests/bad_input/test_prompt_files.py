"""Prompt files, tools and limits that cannot be used: one line that names the file, and where in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gemma_mtp.runtime.errors import UserError
from gemma_mtp.runtime.parity.about import recorded_sources
from gemma_mtp.runtime.parity.report.thresholds import read_thresholds
from gemma_mtp.runtime.text.prompts import read_prompts, read_tools
from tests.bad_input.values import NO_JSON

LINES: tuple[str | bytes, ...] = (
    "{", "7", "null", "[]", '"text"', "{}", '{"prompt": 7}', '{"prompt": null}', '{"prompt": ["a"]}', '{"text": {}}',
    '{"prompt": "a", "text": "b"}', '{"prompt": "a", "prompt": "b"}', '{"prompt": "a", "max_tokens": 7}',
    '{"prompt": "\\ud800"}', '{"prompt": NaN}', '{"prompt": "a", "enable_thinking": "yes"}',
    '{"prompt": "a", "enable_thinking": 1}', '{"prompt": "a", "tools": {}}', '{"prompt": "a", "tools": [7]}',
    '{"prompt": "a", "tools": [{"type": "function"}]}', '{"prompt": "a", "tools": [{"function": {"name": 7}}]}',
    '{"prompt": "a", "tools": [{"function": {"name": "f", "parameters": NaN}}]}',
    '{"prompt": "a", "chat_template_kwargs": []}', '{"prompt": "a", "chat_template_kwargs": {"messages": []}}',
    '{"prompt": "a", "chat_template_kwargs": {"x %}{{ 1": 1}}',
    '{"prompt": "a", "chat_template_kwargs": {"x": -Infinity}}',
    '{"text": "a", "tools": []}', '{"messages": {}}', '{"messages": []}', '{"messages": "a"}', '{"messages": [7]}',
    '{"messages": [{"content": "a"}]}', '{"messages": [{"role": 7, "content": "a"}]}',
    '{"messages": [{"role": "user"}]}',
    '{"messages": [{"role": "user", "content": 7}]}', '{"messages": [{"role": "user", "content": {}}]}',
    '{"messages": [{"role": "user", "content": ["a"]}]}', '{"messages": [{"role": "user", "content": [{}]}]}',
    '{"messages": [{"role": "user", "content": [{"type": "text"}]}]}',
    '{"messages": [{"role": "user", "content": [{"type": "text", "text": 7}]}]}',
    '{"messages": [{"role": "user", "content": [{"type": 7, "text": "a"}]}]}',
    '{"messages": [{"role": "assistant", "tool_calls": "f"}]}',
    '{"messages": [{"role": "assistant", "tool_calls": [7]}]}',
    '{"messages": [{"role": "tool", "content": "a", "tool_responses": {}}]}',
    '{"messages": [{"role": "assistant", "content": "a", "reasoning_content": 7}]}',
    '{"messages": [{"role": "user", "content": "\\udc80"}]}', '{"prompt": ' + "[" * 100_000 + "]" * 100_000 + "}",
    '{"prompt": "a", "chat_template_kwargs": {"x": ' + "9" * 5000 + "}}", b'{"prompt": "\xff"}', b"\xef\xbb\xbf{}",
)  # fmt: skip
TOOLS = ("", "{", "{}", "7", "null", "[7]", "[[]]", '[{"type": "function"}]', '[{"function": {"name": null}}]',
         '[{"function": {"name": "f", "name": "g"}}]', '[{"function": {"name": "\\ud800"}}]', "[NaN]")  # fmt: skip
LIMITS: tuple[object, ...] = (
    [], "x", 7, None, {"unknown": 1}, {"logits": "1"}, {"logits": True}, {"logits": float("nan")}, {"logits": -1.0},
    {"logits": float("inf")}, {"logits": 10**400}, {"logits": None}, {"format": []}, {"format": {}}, {"format": 7},
    {"format": "int3"}, {"format": None},
)  # fmt: skip


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 1000
    return str(error.value)


@pytest.mark.parametrize("line", LINES, ids=lambda line: ascii(line)[:40])
def test_prompt(line: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    bad = line.encode() if isinstance(line, str) else line
    path.write_bytes(bad if bad.startswith(b"\xef") else b'{"prompt": "good"}\n\n' + bad)
    with pytest.raises(UserError) as refused:
        read_prompts(path)
    assert str(path) in one_line(refused)
    if isinstance(line, str):
        assert "line 3" in one_line(refused)


@pytest.mark.parametrize("kind", ["empty", "folder", "link to nothing", "no UTF-8", "UTF-16", "zeros"])
def test_prompt_file(kind: str, tmp_path: Path) -> None:
    NO_JSON[kind](path := tmp_path / "prompts.jsonl")
    with pytest.raises(UserError) as refused:
        read_prompts(path)
    assert str(path) in one_line(refused)


def test_separators_of_lines_that_json_does_not_know_stay_within_a_prompt(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"prompt": "a\u2028b\x85c"}, ensure_ascii=False) + "\r\n", "utf-8")
    assert [prompt.last_message for prompt in read_prompts(path)] == ["a\u2028b\x85c"]


@pytest.mark.parametrize("content", TOOLS)
def test_tools(content: str, tmp_path: Path) -> None:
    path = tmp_path / "tools.json"
    path.write_text(content)
    with pytest.raises(UserError) as refused:
        read_tools(path)
    assert str(path) in one_line(refused)


@pytest.mark.parametrize("limits", LIMITS, ids=lambda limits: ascii(limits)[:40])
def test_limits(limits: object, tmp_path: Path) -> None:
    path = tmp_path / "limits.json"
    path.write_text(json.dumps(limits))
    with pytest.raises(UserError) as refused:
        read_thresholds(str(path), "int8", "the bundle")
    assert str(path) in one_line(refused)
    if isinstance(limits, dict):
        assert next(iter(limits)) in one_line(refused)


@pytest.mark.parametrize("kind", NO_JSON)
def test_limits_that_are_no_json_object(kind: str, tmp_path: Path) -> None:
    NO_JSON[kind](path := tmp_path / "limits.json")
    with pytest.raises(UserError) as refused:
        read_thresholds(str(path), "int8", "the bundle")
    assert str(path) in one_line(refused)


@pytest.mark.parametrize("kind", NO_JSON)
def test_manifest_that_cannot_be_read_says_nothing_of_the_bundle(kind: str, tmp_path: Path) -> None:
    NO_JSON[kind](tmp_path / "manifest.json")
    assert recorded_sources(tmp_path / "model.litertlm", "0") is None
