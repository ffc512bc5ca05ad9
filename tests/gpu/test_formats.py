"""Weights of few bits and of float16 on stock LiteRT-LM's GPU backend: `make test-gpu-slow`."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemma_mtp.runtime.bundle.inspection import inspect_bundle
from tests.conftest import DRAFT_TOKENS, Exports
from tests.gpu.conftest import NEAR_THE_END, run_patiently

pytestmark = [pytest.mark.gpu, pytest.mark.gpu_slow]
# Every format that the GPU runs, for matrices of both models and, where they are looked up there, for tables; two bits
# where the text stays varied.
MIX = """
schema = 1
rules = [
  {tensors = "target.mlp.*", layers = "own-kv", format = "int4"},
  {tensors = "target.mlp.down_proj", layers = "7", format = "int2"},
  {tensors = ["target.mlp.*", "target.attention.*"], format = "fp16"},
  {tensors = "drafter.head", format = "int2"},
  {tensors = ["drafter.centroids", "drafter.mlp.*", "per_layer_embedder"], format = "int4"},
  {tensors = ["drafter.attention.*", "embedder"], format = "fp16"},
  {tensors = "*", format = "int8"},
]
"""
TOKENS = 10


def test_mixed_formats_give_one_text_with_mtp_on_and_off(
    exports: Exports, texts: list[str], device: str, tokenizer, tmp_path: Path, capsys
) -> None:
    recipe = tmp_path / "mix.toml"
    recipe.write_text(MIX)
    bundle = exports("gpu-mixed-formats", weights=str(recipe)) / "model.litertlm"
    models = inspect_bundle(bundle).models
    for model in ("prefill_decode", "mtp_drafter"):
        assert {"int2", "int4", "int8", "float16"} <= models[model].constant_bytes.keys()
    crossing = texts[NEAR_THE_END:]
    off, on, cpu = (
        run_patiently(bundle, crossing, speculative=mtp, backend=backend, max_tokens=TOKENS)
        for mtp, backend in ((False, "gpu"), (True, "gpu"), (True, "cpu"))
    )
    with capsys.disabled():
        print(f"\nmixed formats: accepted {on.acceptance_rate:.1%} on the GPU, {cpu.acceptance_rate:.1%} on the CPU")
    for expected, text in zip(off.texts, on.texts, strict=True):
        # LiteRT-LM finishes the round in which it reaches its limit.
        assert text.startswith(expected)
        assert len(tokenizer(text[len(expected) :], add_special_tokens=False)["input_ids"]) <= DRAFT_TOKENS
    assert len(set(off.texts)) == len(off.texts)
    # The CPU rounds activations, too; a drafter that misreads caches or rows would lose nearly all.
    assert on.acceptance_rate == pytest.approx(cpu.acceptance_rate, abs=0.2)
