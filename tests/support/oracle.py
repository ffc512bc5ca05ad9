"""transformers' own Gemma 4 classes as the oracle, and random pairs in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    DynamicCache,
    Gemma4AssistantConfig,
    Gemma4AssistantForCausalLM,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Gemma4TextConfig,
)

from tests.small_pair.target import ROPE
from tests.small_pair.tokenizer import CHAT_TEMPLATE

VOCABULARY = 2048


@dataclass(frozen=True)
class Pass:
    """One pass over a whole sequence: logits `[T, V]`, activations `[T, D]`, and each own layer's keys and values."""

    logits: torch.Tensor
    activations: torch.Tensor
    caches: list[tuple[torch.Tensor, torch.Tensor]]


@torch.no_grad()
def run_target(target: Gemma4ForConditionalGeneration, tokens: Sequence[int]) -> Pass:
    """The target over `tokens` at once, with a cache that forgets no row of a sliding layer."""
    cache = DynamicCache()
    output = target(input_ids=torch.tensor([list(tokens)]), cache=cache, use_cache=True, output_hidden_states=True)
    own = [(layer.keys[0], layer.values[0]) for layer in cache.layers]
    return Pass(output.logits[0], output.hidden_states[-1][0], own)


def _enliven(model: torch.nn.Module, seed: int) -> None:
    """Random weights of a size at which every part of the model matters to its output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("token_ordering"):
                tensor.copy_(torch.randperm(tensor.numel(), generator=generator))
            elif name.endswith(("q_norm.weight", "k_norm.weight")):
                tensor.copy_(tensor.numel() ** -0.25 * (1.5 + 0.2 * torch.randn(tensor.shape, generator=generator)))
            elif name.endswith(("norm.weight", "layer_scalar")):
                tensor.copy_(1 + 0.2 * torch.randn(tensor.shape, generator=generator))
            elif tensor.ndim == 2 and tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * tensor.shape[1] ** -0.5)


def random_target(seed: int = 0, **changes: object) -> Gemma4ForConditionalGeneration:
    """A small random target; E2B's pattern unless `changes` to its text configuration say otherwise."""
    settings: dict[str, object] = {
        "vocab_size": VOCABULARY,
        "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size": 48,
        "hidden_size_per_layer_input": 8,
        "intermediate_size": 64,
        "use_double_wide_mlp": True,
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "global_head_dim": 32,
        "sliding_window": 8,
        "max_position_embeddings": 128,
        "final_logit_softcapping": 30.0,
        "rope_parameters": ROPE,
        "bos_token_id": 2,
        "eos_token_id": [1, 5],
        "pad_token_id": 0,
    }
    text = Gemma4TextConfig(**{**settings, **changes})
    model = Gemma4ForConditionalGeneration(Gemma4Config(text_config=text, vision_config=None, audio_config=None))
    _enliven(model, seed)
    return model.eval()


# Five sliding layers to a full one and two kv heads, as E4B; of the KV-sharing layers one of each type, as every layer
# is traced several times.
E4B_PATTERN: dict[str, object] = {
    "num_hidden_layers": 8,
    "num_kv_shared_layers": 2,
    "layer_types": ["sliding_attention"] * 5 + ["full_attention", "sliding_attention", "full_attention"],
    "num_key_value_heads": 2,
    "use_double_wide_mlp": False,
}


def random_drafter(
    target: Gemma4ForConditionalGeneration, seed: int = 1, *, dense_head: bool = False, **changes: object
) -> Gemma4AssistantForCausalLM:
    """A small random drafter for `target`: three sliding layers and a full one."""
    base = target.config.text_config
    settings: dict[str, object] = {
        "vocab_size": base.vocab_size,
        "vocab_size_per_layer_input": 0,
        "hidden_size": 32,
        "hidden_size_per_layer_input": 0,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 4,
        "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
        "num_attention_heads": 4,
        "num_key_value_heads": base.num_key_value_heads,
        "head_dim": base.per_layer_config["sliding_attention"].head_dim,
        "global_head_dim": base.per_layer_config["full_attention"].head_dim,
        "sliding_window": base.sliding_window,
        "max_position_embeddings": base.max_position_embeddings,
        "rope_parameters": ROPE,
    }
    config = Gemma4AssistantConfig(
        text_config=Gemma4TextConfig(**{**settings, **changes}),
        backbone_hidden_size=base.hidden_size,
        use_ordered_embeddings=not dense_head,
        num_centroids=32,
        centroid_intermediate_top_k=4,
    )
    drafter = Gemma4AssistantForCausalLM(config)
    _enliven(drafter, seed)
    return drafter.eval()


def save_pair(
    target: Gemma4ForConditionalGeneration, drafter: Gemma4AssistantForCausalLM, folder: Path, tokenizer: Path
) -> tuple[Path, Path]:
    """Save both as checkpoints under `folder`, with `tokenizer` (a tokenizer.json) and a chat template."""
    paths = folder / "target", folder / "drafter"
    target.save_pretrained(paths[0])
    drafter.save_pretrained(paths[1])
    (paths[0] / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    (paths[0] / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return paths
