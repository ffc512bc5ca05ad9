"""Bundles on stock LiteRT-LM (CPU): the text is the target's own, with and without speculative decoding."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from gemma_mtp.runtime.reference import greedy_tokens, load_pair
from gemma_mtp.runtime.stock import StockRun, StockRuntimeError, run_stock
from tests.conftest import CONTEXT, DRAFTER, TARGET
from tests.small_pair.corpus import held_out_prompts

PROMPTS, STOP = 40, (1, 5)
WINDOW, DRAFT_TOKENS = 64, 4


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(TARGET)


def count(tokenizer, text: str) -> int:
    """Tokens of `text`."""
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.fixture(scope="module")
def prompts(tokenizer) -> list[str]:
    """Held-out prompts that leave room for an answer, and some that nearly fill the context."""

    def tokens(text: str) -> int:
        return count(tokenizer, "<bos>" + text)

    pool = held_out_prompts(4 * PROMPTS)
    long = [text for text in pool if CONTEXT - 45 <= tokens(text) <= CONTEXT - 2]
    fitting = [text for text in pool if tokens(text) < CONTEXT - 45]
    chosen = [*long[:4], *fitting[: PROMPTS - len(long[:4])]]
    assert len(chosen) >= PROMPTS
    lengths = sorted(map(tokens, chosen))
    assert lengths[0] < 20
    assert sum(length > WINDOW for length in lengths) >= 10
    assert lengths[-1] > CONTEXT - 45
    return chosen


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, prompts: list[str]):
    """Both runs of a bundle, off and on, each made once."""
    made: dict[str, tuple[StockRun, StockRun]] = {}

    def run(name: str) -> tuple[StockRun, StockRun]:
        if name not in made:
            bundle = request.getfixturevalue(name) / "model.litertlm"
            made[name] = (run_stock(bundle, prompts, speculative=False), run_stock(bundle, prompts, speculative=True))
        return made[name]

    return run


@pytest.mark.parametrize("weights", ["small_fp32", "small_int8"])
def test_speculative_decoding_changes_no_token(weights: str, runs, prompts: list[str], tokenizer) -> None:
    plain, speculative = runs(weights)
    overshot = 0
    for prompt, expected, text in zip(prompts, plain.texts, speculative.texts, strict=True):
        if text == expected:
            continue
        # At the context's end the runtime finishes its round: the same text, and up to a round's drafts more.
        overshot += 1
        assert text.startswith(expected)
        assert 1 <= count(tokenizer, text[len(expected) :]) <= DRAFT_TOKENS
        assert count(tokenizer, prompt + expected) >= CONTEXT * 0.9  # Tokenizing anew merges some.
    assert overshot < PROMPTS
    assert len(set(plain.texts)) > PROMPTS * 3 // 4  # A model that says the same of everything proves nothing.


@pytest.mark.parametrize("weights", ["small_fp32", "small_int8"])
def test_runtime_reports_high_acceptance(weights: str, runs) -> None:
    assert runs(weights)[1].acceptance_rate > 0.4


def test_float_text_equals_transformers_to_the_end_of_the_context(runs, prompts: list[str], tokenizer) -> None:
    target, _ = load_pair(str(TARGET), str(DRAFTER))
    plain, speculative = runs("small_fp32")
    filled = 0
    for prompt, off, on in zip(prompts, plain.texts, speculative.texts, strict=True):
        ids = tokenizer("<bos>" + prompt, add_special_tokens=False)["input_ids"]
        expected = greedy_tokens(target, ids, CONTEXT - len(ids) + DRAFT_TOKENS, STOP)
        within = expected[: CONTEXT - len(ids)]
        if within[-1] in STOP:
            assert off == on == tokenizer.decode(within[:-1])
        else:
            filled += 1
            assert off == tokenizer.decode(within)
            # What goes past the context's end is the target's own text too.
            assert tokenizer.decode(expected[:-1] if expected[-1] in STOP else expected).startswith(on)
    assert filled >= 4  # Some answers ran to the very end of the context.


def test_e4b_pattern_runs_with_speculative_decoding(e4b: Path) -> None:
    prompts = ["def f(x):\n", "class Queue:\n\n    def __init__(self, size):\n        self.size = size\n"]
    plain, speculative = (run_stock(e4b / "model.litertlm", prompts, speculative=flag) for flag in (False, True))
    assert speculative.texts == plain.texts
    assert all(plain.texts)


def test_dense_head_runs_with_speculative_decoding(dense_head: Path, small_fp32: Path, prompts: list[str]) -> None:
    """A random drafter of the shipped target: nothing is accepted, and the text is the same all the same."""
    speculative = run_stock(dense_head / "model.litertlm", prompts[:6], speculative=True)
    assert speculative.texts == run_stock(small_fp32 / "model.litertlm", prompts[:6], speculative=False).texts
    assert speculative.acceptance_rate < 0.1


def test_failure_of_the_runtime_is_reported(tmp_path: Path) -> None:
    bundle = tmp_path / "model.litertlm"
    bundle.write_bytes(b"LITERTLM" + bytes(100))
    with pytest.raises(StockRuntimeError, match="exit code"):
        run_stock(bundle, ["a"], speculative=False)
