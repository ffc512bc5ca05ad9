"""float16 and int8 caches on stock LiteRT-LM's GPU backend: `make test-gpu`."""

from __future__ import annotations

import pytest

from gemma_mtp.export.models.kv_cache import CacheFormat
from tests.conftest import DRAFT_TOKENS
from tests.gpu.conftest import Runs

pytestmark = pytest.mark.gpu
# Caches, and what the GPU computes in beside them. Float16 caches need float16 activations (export refuses others).
FORMATS: list[tuple[CacheFormat, str]] = [("fp16", "fp16"), ("int8", "fp32"), ("int8", "fp16")]
# Rounding to float16 and then to int8 moves near ties, so there the text parts from the CPU's.
EQUAL_TO_CPU = FORMATS[:2]


@pytest.mark.parametrize(("kv_cache", "activations"), FORMATS)
def test_speculative_decoding_changes_no_token(kv_cache: CacheFormat, activations: str, runs: Runs, tokenizer) -> None:
    off, on = runs("fp32", activations, "gpu", kv_cache)
    for expected, text in zip(off.texts, on.texts, strict=True):
        # LiteRT-LM finishes the round in which it reaches its limit.
        assert text.startswith(expected)
        assert len(tokenizer(text[len(expected) :], add_special_tokens=False)["input_ids"]) <= DRAFT_TOKENS
    assert len(set(off.texts)) == len(off.texts)


@pytest.mark.parametrize(("kv_cache", "activations"), EQUAL_TO_CPU)
def test_text_and_acceptance_are_the_cpus(kv_cache: CacheFormat, activations: str, runs: Runs, capsys) -> None:
    """So the GPU stores and reads by the scales that the CPU uses, in target and drafter."""
    (gpu_off, gpu), (cpu_off, cpu) = (runs("fp32", activations, backend, kv_cache) for backend in ("gpu", "cpu"))
    with capsys.disabled():
        print(
            f"\n{kv_cache} caches: accepted {gpu.acceptance_rate:.1%} on the GPU, {cpu.acceptance_rate:.1%} on the CPU"
        )
    assert gpu_off.texts == cpu_off.texts
    assert gpu.acceptance_rate == pytest.approx(cpu.acceptance_rate, abs=0.03)
