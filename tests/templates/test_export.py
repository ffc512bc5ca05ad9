"""What an export does with a template: rewrites it, refuses it, or packs it as it is told to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gemma_mtp.runtime.bundle.inspection import inspect_bundle
from tests.conftest import CONTEXT, DRAFTER, PREFILL, TARGET, Exports

# MiniJinja has no such function, and no rewriting stands in for it.
DIFFERENT = (
    "{% set mark = cycler('-', '+') %}"
    "{% for m in messages %}<|turn>{{ m['role'] }}\n{{ mark.next() }} {{ m['content'] }}<turn|>\n{% endfor %}"
)
GETTING = "{% for m in messages %}<|turn>{{ m.get('role') }}\n{{ m.get('content') }}<turn|>\n{% endfor %}"


@pytest.fixture
def arguments(exports: Exports, small_fp32: Path, tmp_path: Path) -> list[str]:
    return [
        *("export", str(TARGET), str(DRAFTER), "-o", str(tmp_path / "out"), "--weights", "fp32"),
        *("--context-length", str(CONTEXT), "--prefill-lengths", ",".join(map(str, PREFILL))),
        *("--skeleton-cache", str(exports.skeletons), "--chat-template", str(tmp_path / "chat.jinja")),
    ]


def test_methods_are_rewritten_and_shown(run, arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text(GETTING)
    code, _, error = run(*arguments)
    assert code == 0
    assert "rewritten for LiteRT-LM (2 tags), equal to transformers in" in " ".join(error.split())
    assert "line 1: {{ m.get('role') }} -> " in error
    assert f"--chat-template {tmp_path / 'chat.jinja'}" in " ".join(error.split())
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [change["line"] for change in manifest["chat_template"]["changes"]] == [1, 2]
    packed = inspect_bundle(tmp_path / "out").bundle.llm_metadata.jinja_prompt_template
    assert ".get(" not in packed


def test_a_template_that_would_differ_is_refused_with_the_place(run, arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text(DIFFERENT)
    code, output, error = run(*arguments, "-q")
    assert (code, output, error.count("\n")) == (2, "", 1)
    for said in ("chat.jinja", "in the conversation", "--chat-template", "--allow-template-difference"):
        assert said in error
    assert not (tmp_path / "out").exists()


def test_a_difference_that_is_allowed_is_told_by_inspect(run, arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text(DIFFERENT)
    assert run(*arguments, "-q", "--allow-template-difference")[0] == 0
    code, output, _ = run("inspect", str(tmp_path / "out"))
    assert code == 0
    assert "DIFFERS from transformers" in " ".join(output.split())
