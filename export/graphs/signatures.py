"""The signatures of every model, as LiteRT-LM demands them: names, sample inputs, outputs and weights.

A signature is a function of its weights and its inputs, both by name, with nothing captured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch

from ...runtime.bundle.names import EMBEDDER, INPUT_POS, MTP_DRAFTER, PARAM_TENSOR, PER_LAYER_EMBEDDER
from ..checkpoint.config import DrafterConfig, TargetConfig
from ..checkpoint.weights import (
    Weight,
    decode_weights,
    drafter_weights,
    embedder_weights,
    per_layer_embedder_weights,
    prefill_weights,
)
from ..models.cache_ops import PARAM_TENSOR_SHAPE
from ..models.drafter import DrafterModel
from ..models.embedders import embed, embed_per_layer
from ..models.kv_cache import KVSignature
from ..models.layers import Weights
from ..models.pieces import Pieces
from ..models.target import TargetModel

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype of a signature's input."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class Signature:
    """One entry point: `function(weights, inputs, pieces)` gives the outputs by tensor name, computed in `pieces`.

    Picklable, so that another process can trace it.
    """

    name: str
    function: Callable[[Weights, Tensors, Pieces], Tensors]
    inputs: dict[str, TensorSpec]
    weights: tuple[Weight, ...]

    @property
    def tokens(self) -> int:
        """How many a call runs; 0 for lookups."""
        return self.inputs[INPUT_POS].shape[0] if INPUT_POS in self.inputs else 0


def _step_inputs(tokens: int, columns: int) -> dict[str, TensorSpec]:
    return {
        INPUT_POS: TensorSpec((tokens,), torch.int32),
        "mask": TensorSpec((1, 1, tokens, columns)),
        PARAM_TENSOR: TensorSpec(PARAM_TENSOR_SHAPE, torch.int32),
    }


def _caches(shapes: dict[str, tuple[int, ...]], kv: KVSignature) -> dict[str, TensorSpec]:
    dtype: torch.dtype = getattr(torch, kv.dtype)
    return {name: TensorSpec(shape, dtype) for name, shape in shapes.items()}


def _target_inputs(config: TargetConfig, kv: KVSignature, tokens: int, columns: int) -> dict[str, TensorSpec]:
    return {
        "embeddings": TensorSpec((1, tokens, config.hidden_size)),
        "per_layer_embeddings": TensorSpec((1, tokens, config.layers, config.ple_dim)),
        **_step_inputs(tokens, columns),
        **_caches(kv.target_shapes(), kv),
    }


def _split(inputs: Tensors, cache_names: dict[str, tuple[int, ...]]) -> tuple[Tensors, Tensors]:
    caches = {name: inputs[name] for name in cache_names}
    return {name: tensor for name, tensor in inputs.items() if name not in caches}, caches


def _prefill(model: TargetModel, weights: Weights, inputs: Tensors, pieces: Pieces) -> Tensors:
    plain, caches = _split(inputs, model.kv.target_shapes())
    return model.prefill(weights, **plain, caches=caches, pieces=pieces)


def _decode(model: TargetModel, weights: Weights, inputs: Tensors, pieces: Pieces) -> Tensors:
    plain, caches = _split(inputs, model.kv.target_shapes())
    logits, activations, caches = model.decode(weights, **plain, caches=caches, pieces=pieces)
    return {"logits": logits, "activations": activations, **caches}


def _draft(model: DrafterModel, weights: Weights, inputs: Tensors, pieces: Pieces) -> Tensors:
    plain, caches = _split(inputs, model.kv.drafter_shapes())
    logits, projected = model.draft(weights, **plain, caches=caches, pieces=pieces)
    return {"logits": logits, "projected_activations": projected}


def _embed(config: TargetConfig, weights: Weights, inputs: Tensors, pieces: Pieces) -> Tensors:
    return {"embeddings": pieces.once(embed, config, weights, inputs["token_ids"])}


def _embed_per_layer(config: TargetConfig, weights: Weights, inputs: Tensors, pieces: Pieces) -> Tensors:
    return {"per_layer_embeddings": pieces.once(embed_per_layer, config, weights, inputs["token_ids"])}


def target_signatures(
    config: TargetConfig,
    kv: KVSignature,
    *,
    prefill_lengths: Iterable[int],
    draft_tokens: int,
    verify_lengths: Iterable[int] = (),
) -> list[Signature]:
    """The target's entry points.

    `prefill_N` of N tokens for each length; `decode`; `verify` of `draft_tokens + 1` tokens, which LiteRT-LM runs; and
    `verify_N` of N + 1 tokens for each further draft length N.
    """
    model = TargetModel(config, kv)
    prefill_side = tuple(prefill_weights(config))
    decode_side = tuple(decode_weights(config))
    prefills = [
        Signature(
            f"prefill_{tokens}", partial(_prefill, model), _target_inputs(config, kv, tokens, kv.length), prefill_side
        )
        for tokens in prefill_lengths
    ]
    passes = {"decode": 1, "verify": draft_tokens + 1}
    passes |= {f"verify_{length}": length + 1 for length in verify_lengths}
    # LiteRT-LM fills a mask's rows beyond the context's end, past the last row's, where they have no room for that.
    columns = {
        name: 2 * kv.length if kv.is_placeholder and tokens > 1 else kv.length for name, tokens in passes.items()
    }
    decodes = [
        Signature(name, partial(_decode, model), _target_inputs(config, kv, tokens, columns[name]), decode_side)
        for name, tokens in passes.items()
    ]
    return [*prefills, *decodes]


def drafter_signature(
    target: TargetConfig, config: DrafterConfig, kv: KVSignature, *, scatter: bool = False
) -> Signature:
    """`mtp_drafter`: one draft step; `scatter` as of `DrafterModel`."""
    inputs = {
        "activations": TensorSpec((1, 1, 2 * config.backbone_hidden_size)),
        **_step_inputs(1, kv.length),
        **_caches(kv.drafter_shapes(), kv),
    }
    function = partial(_draft, DrafterModel(config, target, kv, scatter))
    weights = drafter_weights(config, target.max_position_embeddings, scatter=scatter)
    return Signature(MTP_DRAFTER, function, inputs, tuple(weights))


def embedder_signature(config: TargetConfig) -> Signature:
    """The token embedder: one token id, int32 `[1, 1]`, in; `[1, 1, D]` out."""
    inputs = {"token_ids": TensorSpec((1, 1), torch.int32)}
    return Signature(EMBEDDER, partial(_embed, config), inputs, tuple(embedder_weights(config)))


def per_layer_embedder_signature(config: TargetConfig) -> Signature:
    """The per-layer embedder: one token id, int32 `[1, 1]`, in; `[1, 1, layers, ple_dim]` out."""
    inputs = {"token_ids": TensorSpec((1, 1), torch.int32)}
    weights = tuple(per_layer_embedder_weights(config))
    return Signature(PER_LAYER_EMBEDDER, partial(_embed_per_layer, config), inputs, weights)
