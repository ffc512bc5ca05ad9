"""Checkpoints in the layout of the QAT mobile releases, written from transformers' own quantized classes.

transformers replaces the modules (`replace_with_quant_layers`), holds codes, scales and static activation scales in
their parameters and saves them; what is made here is their values, by rounding a model that was not trained for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from shutil import copy
from typing import Any

import torch
from torch import nn
from transformers import Gemma4AssistantForCausalLM, Gemma4ForConditionalGeneration
from transformers.integrations.gemma_quant import QuantizedEmbedding, QuantizedLinear, replace_with_quant_layers
from transformers.utils.quantization_config import GemmaQuantizationConfig

# The published rules for E2B, for layers 0-4 of the small pair in place of 0-14; drafters have their own.
TARGET_BITS: dict[str, dict[str, int]] = {
    r"^lm_head$": {"num_bits": 2},
    r"language_model\.embed_tokens$": {"num_bits": 2},
    r"language_model\.embed_tokens_per_layer$": {"num_bits": 4},
    r"language_model\.layers\.[0-4]\.mlp\.": {"num_bits": 4},
    r"language_model\.layers\.\d+\.mlp\.": {"num_bits": 2},
    r"language_model\.layers\.\d+\.per_layer_input_gate$": {"num_bits": 8},
    r"language_model\.layers\.\d+\.per_layer_projection$": {"num_bits": 8},
    r"language_model\.layers\.\d+\.self_attn\.": {"num_bits": 4},
}
# Fewer 2-bit matrices: a model that was not trained for them writes varied text still. The first pattern decides, and
# transformers sorts them when it saves a configuration.
BEARABLE_BITS = {
    r"language_model\.layers\.[89]\.mlp\.gate": {"num_bits": 2},
    **TARGET_BITS,
    r"language_model\.layers\.\d+\.mlp\.": {"num_bits": 4},
}
DRAFTER_BITS: dict[str, dict[str, int]] = {r"projection": {"num_bits": 8}}
_TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def save_target(source: Path, folder: Path, bits: dict[str, dict[str, int]], prompts: Sequence[Sequence[int]]) -> Path:
    """The target in `source` in that layout, with a head of its own; activations calibrated on `prompts`."""
    model: Any = Gemma4ForConditionalGeneration.from_pretrained(source, dtype=torch.float32).eval()
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    model.config.tie_word_embeddings = False
    settings = GemmaQuantizationConfig(4, True, bits, ["per_layer_model_projection"])

    def run() -> None:
        for prompt in prompts:
            model(input_ids=torch.tensor([list(prompt)]))

    _quantize(model, settings, run)
    model.save_pretrained(folder)
    for name in _TEXT_FILES:
        copy(source / name, folder / name)
    return folder


def save_drafter(source: Path, folder: Path) -> Path:
    """The drafter in `source` in that layout; clusters and tied head stay as they are, which transformers gathers.

    Its activations are not calibrated: scales of 0, as transformers writes them.
    """
    model: Any = Gemma4AssistantForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    settings = GemmaQuantizationConfig(4, False, DRAFTER_BITS, ["lm_head", "masked_embedding.centroids"])
    _quantize(model, settings, lambda: None)
    model.save_pretrained(folder)
    return folder


def quantized_modules(model: nn.Module) -> dict[str, QuantizedLinear | QuantizedEmbedding]:
    """By name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, QuantizedLinear | QuantizedEmbedding)
    }


@torch.no_grad()
def _quantize(model: Any, settings: Any, run: Callable[[], None]) -> None:
    values = {name: module.weight for name, module in model.named_modules() if hasattr(module, "weight")}
    replace_with_quant_layers(model, settings, settings.modules_to_not_convert)
    modules = quantized_modules(model)
    for name, module in modules.items():
        _fill(module, values[name].detach())
    ranges: dict[nn.Module, list[float]] = {}
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: _see(ranges, module, inputs[0], output))
        for module in modules.values()
        if isinstance(module, QuantizedLinear)
    ]
    run()
    for hook in hooks:
        hook.remove()
    for module, (low, high) in ranges.items():
        module.input_activation_scale.fill_(low / 127)
        module.output_activation_scale.fill_(high / 127)
    model.config.quantization_config = settings


def _fill(module: Any, values: torch.Tensor) -> None:
    """Codes from the lowest on are used, as training does; what lies beyond them is cut off."""
    bits, lowest = module.num_bits, -(1 << (module.num_bits - 1))
    divisor = {2: 1.6, 4: 7.5, 8: 127.5}[bits]
    scale = (values.abs().amax(dim=1, keepdim=True) / divisor).clamp_min(1e-6)
    codes = (values / scale).round().clamp(lowest, -lowest - 1)
    if bits < 8:
        digits = (codes - lowest).to(torch.uint8).reshape(len(values), -1, 8 // bits)
        packed = sum(digits[..., place] << (bits * place) for place in range(8 // bits))
    else:
        packed = codes.to(torch.int8)
    if isinstance(module, QuantizedEmbedding):
        module.embedding_quantized.copy_(packed)
        module.embedding_scale.copy_(scale)
    else:
        module.weight.copy_(packed)
        module.weight_scale.copy_(scale)


def _see(ranges: dict[nn.Module, list[float]], module: nn.Module, given: torch.Tensor, made: torch.Tensor) -> None:
    found = ranges.setdefault(module, [0.0, 0.0])
    for place, values in enumerate((given, made)):
        found[place] = max(found[place], float(values.abs().max()))
