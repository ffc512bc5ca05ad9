"""Gemma 4's decoder layer over an explicit KV cache, functional in its weights; used by target and drafter alike.

Mirrors transformers' Gemma4TextDecoderLayer, Gemma4TextAttention, Gemma4TextMLP and Gemma4RMSNorm. Weights are looked
up by their checkpoint names, without the prefix that differs between checkpoint forms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ...runtime.bundle.names import ROPE_STRIDE, ROPE_TABLES
from ..checkpoint.config import DecoderConfig, LayerType
from .cache_ops import cache_update, masked_scores, query_key_product, weight_value_product, window_mask
from .lowerings import integer_quotient, linear
from .norm import rms_norm
from .windowed import Window

Weights = Mapping[str, torch.Tensor]


def rotate(x: torch.Tensor, rope: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of `x` `[1, T, heads, head_dim]` by `rope` `[1, T, 1, 2 * pairs]`.

    Pair i is made of dimensions i and i + head_dim / 2; pairs beyond `pairs` stay as they are.
    """
    pairs, half = rope.shape[-1] // 2, x.shape[-1] // 2
    cos, sin = rope[..., :pairs], rope[..., pairs:]
    first, second = x[..., :pairs], x[..., half : half + pairs]
    turned = (first * cos - second * sin, second * cos + first * sin)
    if pairs == half:
        return torch.cat(turned, dim=-1)
    return torch.cat((turned[0], x[..., pairs:half], turned[1], x[..., half + pairs :]), dim=-1)


def rotary_rows(positions: torch.Tensor, fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
    """Cosines, then sines, of `positions` (int32 `[T]`): float32 `[1, T, 1, 2 * pairs]`, for `rotate`.

    The angle is the sum of a row's of `coarse`, ROPE_STRIDE positions apart, and a row's of `fine`, one for each
    position between. Below ROPE_STRIDE it is the latter's alone, to the last bit.
    """
    steps = integer_quotient(positions, ROPE_STRIDE)
    far, near = F.embedding(steps, coarse), F.embedding(positions - steps * ROPE_STRIDE, fine)  # [T, 2 * pairs]
    pairs = far.shape[-1] // 2
    far_cos, far_sin, cos, sin = far[:, :pairs], far[:, pairs:], near[:, :pairs], near[:, pairs:]
    rows = torch.cat((far_cos * cos - far_sin * sin, far_sin * cos + far_cos * sin), dim=-1)
    return rows.view(1, -1, 1, 2 * pairs)


@dataclass(frozen=True)
class Step:
    """What all layers of one pass share.

    Shapes: `positions` int32 `[T]`, `param_tensor` int32 `[1, 1, 1, 7]`; by layer type, `masks` float32 `[1, 1, T, L]`
    (0 = attend) and `rope` float32 `[1, T, 1, 2 * pairs]`. `may_overrun`: the pass may begin so late that its last rows
    lie past the caches' end.
    """

    positions: torch.Tensor
    param_tensor: torch.Tensor
    masks: Mapping[LayerType, torch.Tensor]
    rope: Mapping[LayerType, torch.Tensor]
    may_overrun: bool


def begin_step(
    config: DecoderConfig,
    weights: Weights,
    positions: torch.Tensor,
    mask: torch.Tensor,
    param_tensor: torch.Tensor,
    length: int,
    may_overrun: bool = False,
) -> Step:
    """Turn positions into rotary rows and narrow the causal `mask` to the sliding window, once for all layers.

    `mask` is `[1, 1, T, L]` or, where a pass may overrun the caches of `length` slots L, `[1, 1, T, 2 * L]`.
    """
    masks, rope = {}, {}
    for layer_type in sorted(set(config.layer_types)):
        attention = config.attention_of(layer_type)
        if attention.window is None:
            masks[layer_type] = mask[..., :length]
        else:
            masks[layer_type] = window_mask(mask, length, attention.window)
        fine, coarse = (weights[name] for name in ROPE_TABLES[layer_type])
        rope[layer_type] = rotary_rows(positions, fine, coarse)
    return Step(positions, param_tensor, masks, rope, may_overrun)


def write_kv(
    config: DecoderConfig,
    weights: Weights,
    layer: int,
    x: torch.Tensor,
    step: Step,
    cache: tuple[torch.Tensor, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of the normalised layer input `x` `[1, T, D]`, written into the layer's `cache`."""
    attention, prefix = config.attention(layer), f"layers.{layer}.self_attn."
    shape = (1, -1, attention.kv_heads, attention.head_dim)
    key = linear(x, weights[prefix + "k_proj.weight"]).view(shape)  # [1, T, kv_heads, head_dim]
    value = linear(x, weights[prefix + "v_proj.weight"]).view(shape)
    key = rms_norm(key, weights[prefix + "k_norm.weight"], config.rms_norm_eps)
    key = rotate(key, step.rope[config.layer_types[layer]])
    value = rms_norm(value, None, config.rms_norm_eps)
    rows = key.transpose(1, 2), value.transpose(1, 2)
    return cache_update(*rows, step.param_tensor, *cache, step.positions[0], may_overrun=step.may_overrun)


def attend(
    config: DecoderConfig,
    weights: Weights,
    layer: int,
    x: torch.Tensor,
    step: Step,
    cache: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """Grouped-query attention of the normalised layer input `x` `[1, T, D]` over `cache`; scores are not scaled."""
    attention, prefix = config.attention(layer), f"layers.{layer}.self_attn."
    tokens, heads, head_dim = x.shape[1], config.query_heads, attention.head_dim
    query = linear(x, weights[prefix + "q_proj.weight"]).view(1, tokens, heads, head_dim)
    query = rms_norm(query, weights[prefix + "q_norm.weight"], config.rms_norm_eps)
    query = rotate(query, step.rope[config.layer_types[layer]]).transpose(1, 2)  # [1, heads, T, head_dim]
    # Query heads that share a kv head lie side by side, so a group folds into the rows of one product.
    grouped = query.reshape(1, attention.kv_heads, -1, head_dim)  # [1, kv_heads, heads / kv_heads * T, head_dim]
    window = None if attention.window is None else Window(attention.window, tokens)
    scores = query_key_product(grouped, cache[0], step.param_tensor, window)
    length = scores.shape[-1]
    scores = masked_scores(scores.reshape(1, heads, tokens, length), step.masks[config.layer_types[layer]])
    shares = F.softmax(scores, dim=-1).reshape(1, attention.kv_heads, -1, length)
    mixed = weight_value_product(shares, cache[1], step.param_tensor, window).reshape(1, heads, tokens, head_dim)
    mixed = mixed.transpose(1, 2).reshape(1, tokens, heads * head_dim)
    return linear(mixed, weights[prefix + "o_proj.weight"])


def gated_mlp(weights: Weights, layer: int, x: torch.Tensor) -> torch.Tensor:
    """`down(gelu(gate(x)) * up(x))` on `[1, T, D]`, GELU by its tanh approximation."""
    prefix = f"layers.{layer}.mlp."
    gate = F.gelu(linear(x, weights[prefix + "gate_proj.weight"]), approximate="tanh")
    return linear(gate * linear(x, weights[prefix + "up_proj.weight"]), weights[prefix + "down_proj.weight"])


def attention_input(config: DecoderConfig, weights: Weights, layer: int, x: torch.Tensor) -> torch.Tensor:
    """The residual stream `x` as attention and the KV projections see it."""
    return rms_norm(x, weights[f"layers.{layer}.input_layernorm.weight"], config.rms_norm_eps)


def add_attention(
    config: DecoderConfig,
    weights: Weights,
    layer: int,
    x: torch.Tensor,
    step: Step,
    cache: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """First half of a layer: to the residual stream `x` `[1, T, D]` what it reads from `cache` is added, which already
    holds this step's rows."""
    attended = attend(config, weights, layer, attention_input(config, weights, layer, x), step, cache)
    return x + rms_norm(attended, weights[f"layers.{layer}.post_attention_layernorm.weight"], config.rms_norm_eps)


def add_mlp(
    config: DecoderConfig,
    weights: Weights,
    layer: int,
    x: torch.Tensor,
    per_layer_input: torch.Tensor | None = None,
) -> torch.Tensor:
    """Second half of a layer, on the residual stream `x` `[1, T, D]`: MLP, per-layer input, the layer's scalar.

    `per_layer_input` is `[1, T, ple_dim]`, absent in the drafter.
    """
    prefix, eps = f"layers.{layer}.", config.rms_norm_eps
    mixed = gated_mlp(weights, layer, rms_norm(x, weights[prefix + "pre_feedforward_layernorm.weight"], eps))
    x = x + rms_norm(mixed, weights[prefix + "post_feedforward_layernorm.weight"], eps)
    if per_layer_input is not None:
        gate = F.gelu(linear(x, weights[prefix + "per_layer_input_gate.weight"]), approximate="tanh")
        gated = linear(gate * per_layer_input, weights[prefix + "per_layer_projection.weight"])
        x = x + rms_norm(gated, weights[prefix + "post_per_layer_input_norm.weight"], eps)
    return x * weights[prefix + "layer_scalar"]
