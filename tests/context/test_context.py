"""Bundles loaded with a shorter context than they were exported for, to its very end."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemma_mtp.runtime.bundle.container import BundleFile
from gemma_mtp.runtime.bundle.context.choice import context_edits
from gemma_mtp.runtime.bundle.loading import open_bundle
from gemma_mtp.runtime.decoding.generation import GenerationOptions
from gemma_mtp.runtime.errors import UserError
from gemma_mtp.runtime.model import load
from gemma_mtp.runtime.parity.oracle.reference import greedy_tokens
from gemma_mtp.runtime.stock import run_stock
from tests.conftest import CONTEXT, STOP, HeldOutPrompt

# No multiple of the shortest prefill, nor of anything in the graphs.
SHORT = 150
SMALLEST = 64 + 32 - 1  # The window, and the rows of a prefill that share a slice.


@pytest.fixture(scope="module")
def near_its_end(prompts: list[HeldOutPrompt]) -> list[HeldOutPrompt]:
    """Prompts that leave little room in SHORT slots, yet more than a prefill takes."""
    found = [prompt for prompt in prompts if SHORT - 56 <= len(prompt.tokens) <= SHORT - 12][:8]
    assert len(found) >= 4
    return found


@pytest.mark.parametrize("name", ["small_fp32", "kv_int8"])
def test_text_reaches_the_end_of_a_context_chosen_at_load(
    name: str, bundle_of, near_its_end: list[HeldOutPrompt], torch_pair
) -> None:
    """On stock LiteRT-LM, whose last round with MTP writes past the caches, and in the Python runtime."""
    bundle, texts = bundle_of(name), [prompt.text for prompt in near_its_end]
    off, on = (
        run_stock(bundle / "model.litertlm", texts, speculative=mtp, context_length=SHORT) for mtp in (False, True)
    )
    model = load(bundle, threads=2, context_length=SHORT)
    assert model.engine.contract.slots == SHORT
    reached = 0
    for prompt, without, with_mtp in zip(near_its_end, off.texts, on.texts, strict=True):
        assert with_mtp.startswith(without)
        answers = [
            model.stream_tokens(prompt.tokens, GenerationOptions(max_tokens=SHORT, mtp=mtp)).finish()
            for mtp in (False, True)
        ]
        assert answers[0].tokens == answers[1].tokens
        assert without.startswith(answers[0].text.rstrip("\ufffd"))
        room = SHORT - len(prompt.tokens)
        reached += len(answers[0].tokens) == room
        if name == "small_fp32":
            assert answers[0].tokens == greedy_tokens(torch_pair[0], prompt.tokens, room, STOP)[:room]
    assert reached


def test_a_context_out_of_reach_is_refused_in_a_line(small_fp32: Path) -> None:
    for asked in (SMALLEST - 1, CONTEXT + 1):
        with pytest.raises(
            UserError, match=rf"--context-length: {asked} for .*, expected {SMALLEST} to {CONTEXT}; export"
        ):
            open_bundle(small_fp32, context_length=asked)
    assert open_bundle(small_fp32).contract.slots == CONTEXT


def test_only_lengths_change_and_nothing_moves(small_fp32: Path) -> None:
    bundle = BundleFile(small_fp32 / "model.litertlm")
    for name, section in bundle.model_sections().items():
        content = bundle.content(section)
        edits = context_edits(content, CONTEXT + 1, SHORT)
        assert bool(edits) is (name in ("prefill_decode", "mtp_drafter"))
        source = open_bundle(small_fp32, context_length=SHORT).models[name]
        changed = source.content()
        assert len(changed) == len(content)
        at = {place for edit in edits for place in range(edit.at, edit.at + len(edit.content))}
        assert all(changed[place] == content[place] for place in range(1 << 16) if place not in at)


def test_stock_refuses_to_run_less_than_the_smallest_context(small_fp32: Path) -> None:
    """No text comes out, rather than a wrong one."""
    from gemma_mtp.runtime.stock import StockRuntimeError

    with pytest.raises(StockRuntimeError):
        run_stock(small_fp32 / "model.litertlm", ["def f(" * 30], speculative=False, context_length=SMALLEST - 5)
