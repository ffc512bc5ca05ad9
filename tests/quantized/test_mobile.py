"""A checkpoint in the QAT mobile layout: transformers' values are read, its codes and scales go into the bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma4AssistantForCausalLM, Gemma4ForConditionalGeneration
from transformers.integrations.gemma_quant import QuantizedEmbedding, QuantizedLinear

from gemma_mtp.export.checkpoint.pair import open_pair
from gemma_mtp.export.checkpoint.quantized.kept import codes_note, trained_bits
from gemma_mtp.export.graphs.plan import plan_models
from gemma_mtp.export.graphs.storage import plan_storage
from gemma_mtp.export.models.kv_cache import kv_signature
from gemma_mtp.export.options import default_weights, resolve_options
from gemma_mtp.export.parity import open_oracle
from gemma_mtp.runtime.bundle.constants import Constant, read_constants
from gemma_mtp.runtime.parity.options import VerifyOptions
from gemma_mtp.runtime.parity.oracle.reference import greedy_tokens
from gemma_mtp.runtime.parity.report.report import Report, Verdict
from gemma_mtp.runtime.parity.verify import verify
from gemma_mtp.runtime.parity.weights.stored import dequantized
from gemma_mtp.runtime.stock import run_stock
from gemma_mtp.runtime.text.prompts import Prompt
from tests.conftest import STOP, HeldOutPrompt
from tests.quantized.conftest import Checkpoints
from tests.quantized.mobile import quantized_modules

OPTIONS = VerifyOptions((Prompt(text="def area(self):"),), max_tokens=8, probe_tokens=40, stock=False, threads=2)
TABLES = {"embed_tokens": "embedder", "embed_tokens_per_layer": "per_layer_embedder"}


@pytest.fixture(scope="module")
def models(mobile_pair: Checkpoints) -> tuple[Any, Any]:
    """transformers' own loader of both checkpoints."""
    return (
        Gemma4ForConditionalGeneration.from_pretrained(mobile_pair[0], dtype=torch.float32).eval(),
        Gemma4AssistantForCausalLM.from_pretrained(mobile_pair[1], dtype=torch.float32).eval(),
    )


def values_of(module: QuantizedLinear | QuantizedEmbedding) -> torch.Tensor:
    """The float32 weight that transformers computes with."""
    return module.weight if isinstance(module, QuantizedEmbedding) else module._dequantize_weights()


def short_modules(model: Any) -> dict[str, QuantizedLinear | QuantizedEmbedding]:
    """By the name in the decoder."""
    return {
        name.removeprefix("model.").removeprefix("language_model."): module
        for name, module in quantized_modules(model).items()
    }


def test_values_are_transformers(mobile_pair: Checkpoints, models: tuple[Any, Any]) -> None:
    pair = open_pair(*map(str, mobile_pair))
    for checkpoint, model in zip((pair.target, pair.drafter), models, strict=True):
        seen = set()
        for name, module in short_modules(model).items():
            weight = f"{name}.weight"
            assert torch.equal(checkpoint.read(weight), values_of(module)), name
            assert checkpoint.trained_bits(weight) == module.num_bits
            rows = [5, 3, 14]
            assert torch.equal(checkpoint.read_rows_at(weight, rows), values_of(module)[rows])
            for bits in (4, 8):  # The same values in wider cells.
                if bits >= module.num_bits:
                    wider = checkpoint.codes(weight, rows).widened(bits)
                    assert wider.bits == bits
                    assert np.array_equal(wider.values(), values_of(module)[rows].detach().numpy())
            seen.add(module.num_bits)
        assert seen == ({2, 4, 8} if checkpoint is pair.target else {4, 8})
    assert pair.target.trained_bits("per_layer_model_projection.weight") is None
    assert default_weights(pair) == "mobile"


def constants_of(bundle: Path, model: str) -> dict[str, Constant]:
    content = memoryview((bundle / f"{model}.tflite").read_bytes())
    return {constant.name: constant for constant in read_constants(content, model).constants}


def test_bundle_holds_transformers_codes_and_scales(mobile_bundle: Path, models: tuple[Any, Any]) -> None:
    compared = 0
    for model, main in zip(models, ("prefill_decode", "mtp_drafter"), strict=True):
        places = {place: constants_of(mobile_bundle, place) for place in (main, *TABLES.values())}
        for name, module in short_modules(model).items():
            constant = places[TABLES.get(name, main)][f"{name}.weight"]
            assert constant.dtype == f"int{module.num_bits}"
            assert torch.equal(dequantized(constant, 0, constant.shape[0]), values_of(module)), name
            assert constant.quantization is not None
            scales: Any = module.embedding_scale if isinstance(module, QuantizedEmbedding) else module.weight_scale
            assert np.array_equal(constant.quantization.scales.reshape(-1), scales.detach().numpy().reshape(-1))
            compared += 1
    assert compared == len(short_modules(models[0])) + len(short_modules(models[1])) > 100


def test_what_was_not_trained_for_few_bits_gets_eight(mobile_bundle: Path) -> None:
    weights = json.loads((mobile_bundle / "manifest.json").read_text())["models"]
    assert weights["prefill_decode"]["weights"]["per_layer_model_projection.weight"]["format"] == "int8"
    assert weights["mtp_drafter"]["weights"]["masked_embedding.centroids.weight"]["format"] == "int8"
    kept = weights["prefill_decode"]["weights"]["layers.0.self_attn.q_proj.weight"]
    assert (kept["format"], kept["algorithm"]) == ("int4", "kept")


def test_static_scales_stand_in_the_manifest(mobile_bundle: Path, models: tuple[Any, Any]) -> None:
    scales = json.loads((mobile_bundle / "manifest.json").read_text())["static_scales"]
    linear = {name: module for name, module in short_modules(models[0]).items() if isinstance(module, QuantizedLinear)}
    assert scales["target"].keys() == linear.keys()
    for name, module in linear.items():
        found = scales["target"][name]
        assert found["input_activation_scale"] == module.input_activation_scale.item() > 0
        assert found["output_activation_scale"] == module.output_activation_scale.item() > 0
    assert scales["drafter"] == {}  # Zeros: it was not calibrated.


def test_export_says_what_becomes_of_codes(mobile_pair: Checkpoints) -> None:
    pair = open_pair(*map(str, mobile_pair))
    said = {}
    for recipe in ("mobile", "int8", "int4", "fp32"):
        options = resolve_options(pair.target_config, weights=recipe, context_length=128)
        models = plan_models(pair, kv_signature(pair.target_config, pair.drafter_config, 144), options)
        trained = {name: trained_bits(model.checkpoint, model.weights.values()) for name, model in models.items()}
        said[recipe] = codes_note(trained, plan_storage(models, options.recipe, ("cpu",), trained))
    assert said["mobile"] == said["int8"] == "codes and scales of 105 of 105 quantized weights are kept"
    # Per-layer projections and the drafter's are of eight bits.
    assert said["int4"] == (
        "codes and scales of 83 of 105 quantized weights are kept; 22 are rounded anew to fewer bits or blocks, which"
        " loses what was trained"
    )
    assert said["fp32"] == (
        "codes and scales of 0 of 105 quantized weights are kept; 105 are stored as the floats that they stand for"
    )


def verified(bundle: Path, pair: Checkpoints) -> Report:
    return verify(bundle, open_oracle(open_pair(*map(str, pair))), OPTIONS)


def test_verify_accepts_it_and_names_another_rounding(
    mobile_bundle: Path, mobile_pair: Checkpoints, tmp_path: Path
) -> None:
    report = verified(mobile_bundle, mobile_pair)
    assert report.passed, report.summary()
    # The bundle is compared with checkpoints that differ from its own in one code, and in one scale.
    other = shutil.copytree(mobile_pair[0], tmp_path / "target")
    tensors = load_file(other / "model.safetensors")
    tensors["model.language_model.layers.3.mlp.up_proj.weight"][7, 11] ^= 0b0001_0000
    tensors["model.language_model.embed_tokens_per_layer.embedding_scale"][9] *= 1.01
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    weights = verified(mobile_bundle, (other, mobile_pair[1])).stages[3]
    assert weights.name == "weights"
    assert weights.verdict is Verdict.FAIL
    lines = " ".join(str(check.value) for check in weights.checks if check.verdict is Verdict.FAIL)
    assert "layers.3.mlp.up_proj.weight, row 7, column 23: code" in lines
    assert "token 9: scale" in lines


def without_static_scales(model: Any) -> None:
    for module in quantized_modules(model).values():
        if isinstance(module, QuantizedLinear):
            module.input_activation_scale.data.zero_()
            module.output_activation_scale.data.zero_()


def test_text_is_transformers_as_far_as_activations_allow(
    mobile_bundle: Path, mobile_pair: Checkpoints, prompts: list[HeldOutPrompt], tokenizer
) -> None:
    """transformers rounds activations by static scales, the bundle's kernels each row by its own: a model that was not
    trained for the former loses more to it. Without them, transformers' class keeps float32 activations."""
    chosen = [prompt for prompt in prompts[6:] if len(prompt.tokens) < 100][:8]
    plain, speculative = (
        run_stock(mobile_bundle / "model.litertlm", [prompt.text for prompt in chosen], speculative=flag)
        for flag in (False, True)
    )
    for off, on in zip(plain.texts, speculative.texts, strict=True):
        assert on.startswith(off)  # At the context's end the runtime finishes its round.
    model: Any = Gemma4ForConditionalGeneration.from_pretrained(mobile_pair[0], dtype=torch.float32).eval()
    without_static_scales(model)
    same = 0
    for prompt, text in zip(chosen, plain.texts, strict=True):
        tokens = greedy_tokens(model, prompt.tokens, 24, STOP)
        same += text.startswith(tokenizer.decode(tokens[:-1] if tokens[-1] in STOP else tokens))
    assert same >= 6
