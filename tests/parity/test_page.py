"""The page of a verification: its verdict, what it shows of texts and files, and how it reads on a phone."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from gemma_mtp.runtime.parity.about import about_run, recorded_sources
from gemma_mtp.runtime.parity.options import VerifyOptions
from gemma_mtp.runtime.parity.report.html import render_html
from gemma_mtp.runtime.parity.report.report import Check, Report, Stage, Verdict
from gemma_mtp.runtime.text.prompts import user_prompt

CHECKS = {
    "pass": Check("same token (top-1)", 1.0, Verdict.PASS, 0.9, at_least=True),
    "near-tie": Check("same token (top-1)", 0.95, Verdict.NEAR_TIE, 0.9, at_least=True, near_ties=2),
    "fail": Check("same token (top-1)", 0.5, Verdict.FAIL, 0.9, at_least=True, where="slot 3"),
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A file with a manifest beside it, as an export leaves them."""
    file = tmp_path / "model.litertlm"
    file.write_bytes(b"LITERTLM" * 300)
    sources = {role: {"name": f"some/{role}", "sha256": {"config.json": f"{role}-hash"}} for role in ROLES}
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    manifest = {"sources": sources, "files": {file.name: {"bytes": 2400, "sha256": digest}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return file


ROLES = ("target", "drafter")


def about(bundle: Path) -> dict[str, Any]:
    options = VerifyOptions((user_prompt("a"),), max_tokens=7, threads=2)
    return {
        **{role: f"given/{role}" for role in ROLES},
        **about_run(bundle, 4_300_000, 1, options.as_dict(), {"name": "int8", "near_tie": 0.25}),
        "answers": [
            {
                "prompt": "<b>bold & brave</b>",
                "answer": "if a < b:\n    pass",
                "tokens": 5,
                "finish_reason": "stop_token",
            }
        ],
        "probe": {"0": "the first token", "63": "just under the sliding window"},
        "pass_tokens": 5,
    }


@pytest.mark.parametrize("verdict", CHECKS)
def test_the_verdict_has_its_own_colour(verdict: str, bundle: Path) -> None:
    page = render_html(Report(about(bundle), (Stage("drafter", [CHECKS[verdict]]),)))
    assert re.findall(r'<div class="verdict ([a-z-]+)">', page) == [verdict]
    assert f'<span class="{verdict}">' in page
    assert re.search(rf"\.{verdict} {{ color: var\(--(pass|tie|fail)\)", page)


def test_texts_are_shown_escaped(bundle: Path) -> None:
    page = render_html(Report(about(bundle), ()))
    assert "<pre>&lt;b&gt;bold &amp; brave&lt;/b&gt;</pre>" in page
    assert '<pre class="answer">if a &lt; b:\n    pass</pre>' in page
    assert "the answer has 5 tokens and ended by stop token" in page


def test_what_was_compared_can_be_told_from_the_page(bundle: Path) -> None:
    made = about(bundle)
    page = render_html(Report(made, ()))
    for said in (
        f"2.4 kB, SHA-256 <code>{hashlib.sha256(bundle.read_bytes()).hexdigest()}</code>",
        "given/target; exported from some/target:\nconfig.json <code>target-hash</code>",
        "4.3 MB of weights at a time",
        "0–4 (the first token), 63–67 (just under the sliding window): a pass of 5 tokens",
        "max tokens 7, probe tokens default",
        "near tie 0.25",
        f"Python {made['machine']['python']}",
        f"{made['machine']['cpus']} CPUs",
        made["date"],
        *(f"{package} {version}" for package, version in made["packages"].items()),
    ):
        assert said in page
    assert "0.00 GB" not in page


def test_sources_are_believed_only_of_this_very_bundle(bundle: Path) -> None:
    digest = hashlib.sha256(bundle.read_bytes()).hexdigest()
    assert recorded_sources(bundle, digest) is not None
    assert recorded_sources(bundle, digest[::-1]) is None
    (bundle.parent / "manifest.json").write_text("[]")
    assert recorded_sources(bundle, digest) is None
    (bundle.parent / "manifest.json").unlink()
    assert "there is no manifest.json of this bundle beside it" in render_html(Report(about(bundle), ()))


def test_tables_scroll_inside_their_box(bundle: Path) -> None:
    page = render_html(Report(about(bundle), (Stage("drafter", [CHECKS["fail"]]),)))
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert page.count("<table>") == page.count('<div class="scroll"><table>') == 1
    assert ".scroll { overflow-x: auto; }" in page
