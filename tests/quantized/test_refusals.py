"""What a quantized checkpoint can have wrong: one line that names it, and what to use instead."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gemma_mtp.export.checkpoint.pair import Pair, open_pair
from gemma_mtp.export.checkpoint.weights import decode_weights, embedder_weights
from gemma_mtp.runtime.errors import UserError
from tests.conftest import DRAFTER, TARGET
from tests.quantized.conftest import Checkpoints

DECODER = "model.language_model."
GATE = f"{DECODER}layers.1.mlp.gate_proj"
Tensors = dict[str, torch.Tensor]


def without(name: str) -> Callable[[Tensors], None]:
    def apply(tensors: Tensors) -> None:
        del tensors[name]

    return apply


def changed(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], None]:
    def apply(tensors: Tensors) -> None:
        tensors[name] = change(tensors[name]).contiguous()

    return apply


def zeroed(row: int, value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def apply(tensor: torch.Tensor) -> torch.Tensor:
        tensor[row] = value
        return tensor

    return apply


SPOILED: dict[str, tuple[Callable[[Tensors], None], str]] = {
    "scales are missing": (
        without(f"{GATE}.weight_scale"),
        f"{GATE}.weight holds U8 codes, but {GATE}.weight_scale is missing; is this checkpoint complete?",
    ),
    "an embedding's scales are missing": (
        without(f"{DECODER}embed_tokens.embedding_scale"),
        f"{DECODER}embed_tokens.embedding_quantized holds U8 codes, but {DECODER}embed_tokens.embedding_scale is",
    ),
    "one scale for all rows": (
        changed(f"{GATE}.weight_scale", lambda scales: scales[:1]),
        f"{GATE}.weight_scale is F32 [1, 1], expected F32 [384, 1], one scale for each row of {GATE}.weight",
    ),
    "columns fit no number of bits": (
        changed(f"{GATE}.weight", lambda codes: codes[:, :95]),
        f"{GATE}.weight is U8 [384, 95], expected for its 192 columns I8 [..., 192] (8 bits), U8 [..., 96] (4 bits),"
        " U8 [..., 48] (2 bits)",
    ),
    "rows are missing": (
        changed(f"{GATE}.weight", lambda codes: codes[:380]),
        f"{GATE}.weight has 380 rows, expected 384 from config.json",
    ),
    "values beside scales": (
        changed(f"{GATE}.weight", lambda codes: torch.zeros(384, 192)),
        f"{GATE}.weight is F32, expected U8 or I8 codes, as it has {GATE}.weight_scale",
    ),
    "the tensor is missing": (without(f"{GATE}.weight"), f"tensor {GATE}.weight is missing"),
    "a scale of zero": (
        changed(f"{GATE}.weight_scale", zeroed(5, 0.0)),
        f"{GATE}.weight_scale is 0.0 in row 5, expected a positive number",
    ),
    "a scale that is no number": (
        changed(f"{GATE}.weight_scale", zeroed(7, float("nan"))),
        f"{GATE}.weight_scale is nan in row 7, expected a positive number",
    ),
}


def read_all(pair: Pair) -> None:
    """What an export asks of the target: the list checked, then every value."""
    listed = [*decode_weights(pair.target_config), *embedder_weights(pair.target_config)]
    pair.target.check(listed)
    for weight in listed:
        if weight.source:
            pair.target.read(weight.source)


def spoiled(source: Path, folder: Path, spoil: Callable[[Tensors], None]) -> Path:
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    spoil(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("case", SPOILED)
def test_spoiled_layout_is_named(case: str, mobile_pair: Checkpoints, tmp_path: Path) -> None:
    spoil, line = SPOILED[case]
    target = spoiled(mobile_pair[0], tmp_path / "target", spoil)
    with pytest.raises(UserError) as refused:
        read_all(open_pair(str(target), str(mobile_pair[1])))
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


def with_settings(source: Path, folder: Path, settings: dict[str, Any]) -> str:
    shutil.copytree(source, folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": settings}))
    return str(folder)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"quant_method": "compressed-tensors"}, "'compressed-tensors'), vLLM's format (-ct): give the release"),
        (
            {"quant_method": "gguf"},
            "'gguf'), llama.cpp's format: give the release of the same training whose name ends",
        ),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "an adapter trained on it is merged with --adapter"),
        ({"load_in_8bit": True}, "quant_method 'bitsandbytes'"),
        ({"quant_method": "gptq", "bits": 4}, "'gptq'), rounded after training: give the checkpoint that it was made"),
        ({"quant_method": "awq"}, "'awq'), rounded after training"),
        ({"quant_method": "novel"}, "'novel'), only 'gemma' (-qat-mobile-transformers) can be read"),
        ({"bits": 4}, "quant_method 'unknown'"),
        ({"quant_method": "gemma", "num_bits": 3}, "quantization_config.num_bits is 3, expected 2 or 4 or 8"),
        (
            {"quant_method": "gemma", "module_quant_configs": {"mlp": {"num_bits": 2, "group_size": 32}}},
            "module_quant_configs.mlp.group_size is unknown, expected num_bits alone",
        ),
    ],
)
@pytest.mark.parametrize("role", ["target", "drafter"])
def test_other_methods_are_refused_by_name(role: str, settings: dict[str, Any], reason: str, tmp_path: Path) -> None:
    spoilt = with_settings(TARGET if role == "target" else DRAFTER, tmp_path / role, settings)
    pair = (spoilt, str(DRAFTER)) if role == "target" else (str(TARGET), spoilt)
    with pytest.raises(UserError) as refused:
        open_pair(*pair)
    assert reason in str(refused.value)
    assert f"{spoilt}/config.json" in str(refused.value)


def test_no_adapter_is_merged_into_codes(mobile_pair: Checkpoints) -> None:
    with pytest.raises(UserError, match="into whose codes no adapter can be merged; give the bf16 model"):
        open_pair(str(mobile_pair[0]), str(mobile_pair[1]), ["adapter"])


def test_no_mix_is_searched_for_codes(mobile_pair: Checkpoints, run, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"text": "import"}\n')
    code, output, error = run("compare", *map(str, mobile_pair), "--prompts", str(prompts), "--suggest")
    assert (code, output) == (2, "")
    assert "holds codes, which are best kept as they are" in error
