"""The shipped pair's bundles on stock LiteRT-LM's GPU backend: `make test-gpu`."""

from __future__ import annotations

import pytest

from tests.conftest import CONTEXT, DRAFT_TOKENS, WINDOW, HeldOutPrompt
from tests.gpu.conftest import NEAR_THE_END, Runs

pytestmark = pytest.mark.gpu
# By weights. Both backends draft from the same caches. In float32 they write the same texts and so draft alike; with
# int8 the CPU rounds activations too, the texts part at near ties, and other tokens are drafted. test_planted.py shows
# what a drafter that misreads the caches loses.
ACCEPTANCE_BOUND = {"fp32": 0.03, "int8": 0.15}
PAIRS = [
    ("fp32", "fp16"),
    ("fp32", "fp32"),
    ("int8", "fp16"),
    pytest.param("int8", "fp32", marks=pytest.mark.gpu_slow),
]


@pytest.mark.parametrize(("weights", "activations"), PAIRS)
def test_speculative_decoding_changes_no_token(
    weights: str, activations: str, runs: Runs, chosen: list[HeldOutPrompt], tokenizer
) -> None:
    def count(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    off, on = runs(weights, activations, "gpu")
    for expected, text in zip(off.texts, on.texts, strict=True):
        # LiteRT-LM finishes the round in which it reaches its limit.
        assert text.startswith(expected)
        assert count(text[len(expected) :]) <= DRAFT_TOKENS
    assert len(set(off.texts)) == len(off.texts)
    lengths = [len(prompt.tokens) + count(text) for prompt, text in zip(chosen, off.texts, strict=True)]
    assert min(lengths[:NEAR_THE_END]) >= CONTEXT * 0.95  # Tokenizing anew merges some.
    assert min(lengths[NEAR_THE_END:]) > WINDOW


def test_float_text_equals_the_cpus(runs: Runs) -> None:
    (gpu, _), (cpu, _) = (runs("fp32", "fp32", backend) for backend in ("gpu", "cpu"))
    assert gpu.texts == cpu.texts


@pytest.mark.parametrize(("weights", "activations"), PAIRS)
def test_drafts_are_accepted_as_on_the_cpu(weights: str, activations: str, runs: Runs, capsys) -> None:
    """A drafter that read another cache than the target's would still give the right text, but hardly be accepted."""
    (_, gpu), (_, cpu) = (runs(weights, activations, backend) for backend in ("gpu", "cpu"))
    with capsys.disabled():
        rates = f"{gpu.acceptance_rate:.1%} of the drafts on the GPU, {cpu.acceptance_rate:.1%} on the CPU"
        print(f"\n{weights} weights, {activations} activations: accepted {rates}")
    assert gpu.acceptance_rate == pytest.approx(cpu.acceptance_rate, abs=ACCEPTANCE_BOUND[weights])
