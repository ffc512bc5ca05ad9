"""Bundles on stock LiteRT-LM (CPU): the text is the target's own, with and without speculative decoding."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemma_mtp.runtime.bundle.container import BundleFile
from gemma_mtp.runtime.stock import StockRuntimeError, run_stock
from tests.conftest import CONTEXT, DRAFT_TOKENS, PROMPTS, STOP, TO_THE_END
from tests.support.metadata import Planted, planted_metadata


def count(tokenizer, text: str) -> int:
    """Tokens of `text`."""
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("weights", ["small_fp32", "small_int8"])
def test_speculative_decoding_changes_no_token(weights: str, stock_runs, prompts, tokenizer) -> None:
    plain, speculative = stock_runs(weights)
    overshot = 0
    for prompt, expected, text in zip(prompts, plain.texts, speculative.texts, strict=True):
        if text == expected:
            continue
        # At the context's end the runtime finishes its round: the same text, and up to a round's drafts more.
        overshot += 1
        assert text.startswith(expected)
        assert 1 <= count(tokenizer, text[len(expected) :]) <= DRAFT_TOKENS
        assert count(tokenizer, prompt.text + expected) >= CONTEXT * 0.9  # Tokenizing anew merges some.
    assert overshot < PROMPTS
    assert len(set(plain.texts)) > PROMPTS * 3 // 4  # A model that says the same of everything proves nothing.


@pytest.mark.parametrize("weights", ["small_fp32", "small_int8"])
def test_runtime_reports_high_acceptance(weights: str, stock_runs) -> None:
    assert stock_runs(weights)[1].acceptance_rate > 0.4


def test_float_text_equals_transformers_to_the_end_of_the_context(stock_runs, prompts, greedy, tokenizer) -> None:
    plain, speculative = stock_runs("small_fp32")
    filled = 0
    for index, (prompt, expected) in enumerate(zip(prompts, greedy, strict=True)):
        off, on = plain.texts[index], speculative.texts[index]
        within = expected[: CONTEXT - len(prompt.tokens)]
        if within[-1] in STOP:
            assert off == on == tokenizer.decode(within[:-1])
        elif index < TO_THE_END:
            filled += 1
            assert off == tokenizer.decode(within)
            # One token more is the target's own too: the last row in the caches says it. Those behind it, which
            # LiteRT-LM lets its last round give, were made without keys and values of tokens past the end.
            assert on.startswith(off)
        else:
            assert off.startswith(tokenizer.decode(within))
            assert on.startswith(tokenizer.decode(within))
    assert filled >= 4  # Some answers ran to the very end of the context.


def test_e4b_pattern_runs_with_speculative_decoding(e4b: Path) -> None:
    prompts = ["def f(x):\n", "class Queue:\n\n    def __init__(self, size):\n        self.size = size\n"]
    plain, speculative = (run_stock(e4b / "model.litertlm", prompts, speculative=flag) for flag in (False, True))
    assert speculative.texts == plain.texts
    assert all(plain.texts)


def test_dense_head_runs_with_speculative_decoding(dense_head: Path, small_fp32: Path, prompts) -> None:
    """A random drafter of the shipped target: nothing is accepted, and the text is the same all the same."""
    texts = [prompt.text for prompt in prompts[:6]]
    speculative = run_stock(dense_head / "model.litertlm", texts, speculative=True)
    assert speculative.texts == run_stock(small_fp32 / "model.litertlm", texts, speculative=False).texts
    assert speculative.acceptance_rate < 0.1


def test_further_verify_lengths_do_not_disturb_it(small_lengths: Path, small_int8: Path, prompts) -> None:
    texts = [prompt.text for prompt in prompts[6:14]]
    expected, run = (run_stock(f / "model.litertlm", texts, speculative=True) for f in (small_int8, small_lengths))
    assert run.texts == expected.texts
    assert run.acceptance_rate == expected.acceptance_rate  # It drafts as many tokens as `verify` takes.


def test_embedder_and_head_of_one_table_say_what_two_tables_say(
    small_int8: Path, stock_runs, prompts, tmp_path: Path
) -> None:
    apart = planted_metadata(small_int8, Planted(), tmp_path)
    assert BundleFile(apart).shared(BundleFile(apart).model_sections()["embedder"]) is None
    run = run_stock(apart, [prompt.text for prompt in prompts[6:14]], speculative=True)
    assert run.texts == stock_runs("small_int8")[1].texts[6:14]


def test_failure_of_the_runtime_is_reported(tmp_path: Path) -> None:
    bundle = tmp_path / "model.litertlm"
    bundle.write_bytes(b"LITERTLM" + bytes(100))
    with pytest.raises(StockRuntimeError, match="exit code"):
        run_stock(bundle, ["a"], speculative=False)
