"""The target's passes over embeddings it is given: prefill, and decode or verify.

Mirrors transformers' Gemma4TextModel with `inputs_embeds` and `per_layer_inputs`. Both embeddings come from models of
their own (embedders.py), as LiteRT-LM looks tokens up one by one on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..checkpoint.config import TargetConfig
from ..checkpoint.weights import head_name
from .kv_cache import KVSignature, LayerCache
from .layers import Step, Weights, add_attention, add_mlp, attention_input, begin_step, write_kv
from .lowerings import linear
from .norm import rms_norm
from .pieces import Pieces

Caches = dict[str, torch.Tensor]


@dataclass(frozen=True)
class TargetModel:
    """The target on explicit caches, by the tensor names of `kv`."""

    config: TargetConfig
    kv: KVSignature

    def prefill(
        self,
        weights: Weights,
        embeddings: torch.Tensor,
        per_layer_embeddings: torch.Tensor,
        input_pos: torch.Tensor,
        mask: torch.Tensor,
        param_tensor: torch.Tensor,
        caches: Caches,
        pieces: Pieces,
    ) -> Caches:
        """The caches after T more tokens.

        Runs only what reaches a cache: nothing of the KV-sharing layers does, nor does the last KV-producing layer
        beyond its keys and values.

        Args:
            weights: by checkpoint name.
            embeddings: float32 `[1, T, D]`.
            per_layer_embeddings: float32 `[1, T, layers, ple_dim]`.
            input_pos: int32 `[T]`, contiguous slots.
            mask: float32 `[1, 1, T, L]`, 0 where a query attends.
            param_tensor: int32 `[1, 1, 1, 7]`.
            caches: all tensors of `kv`.
            pieces: what runs the parts of the pass.
        """
        step, per_layer_inputs, caches = self._begin(
            weights, embeddings, per_layer_embeddings, input_pos, mask, param_tensor, caches, pieces
        )
        x = embeddings
        for cache in self.kv.target:
            new = self._write(weights, cache, x, step, caches, pieces)
            if cache is not self.kv.target[-1]:
                x = self._layer(weights, cache.layer, x, step, new, per_layer_inputs, pieces)
        return caches

    def decode(
        self,
        weights: Weights,
        embeddings: torch.Tensor,
        per_layer_embeddings: torch.Tensor,
        input_pos: torch.Tensor,
        mask: torch.Tensor,
        param_tensor: torch.Tensor,
        caches: Caches,
        pieces: Pieces,
    ) -> tuple[torch.Tensor, torch.Tensor, Caches]:
        """Logits, activations and caches after T more tokens; decode has T = 1, verify draft tokens + 1.

        Arguments as for `prefill`, but for the mask of a pass that may overrun the caches, `[1, 1, T, 2 * L]`.

        Returns:
            Logits float32 `[1, T, V]`; the state after the final norm, float32 `[1, T, D]`, which the drafter takes;
            and the updated caches.
        """
        # LiteRT-LM's last round before the context's end may verify beyond it.
        may_overrun = self.kv.is_placeholder and input_pos.shape[0] > 1
        step, per_layer_inputs, caches = self._begin(
            weights, embeddings, per_layer_embeddings, input_pos, mask, param_tensor, caches, pieces, may_overrun
        )
        x = embeddings
        for layer in range(self.config.layers):
            cache = self.kv.target[self.config.kv_source(layer)]
            if cache.layer == layer:
                self._write(weights, cache, x, step, caches, pieces)
            read = caches[cache.key_name], caches[cache.value_name]
            x = self._layer(weights, layer, x, step, read, per_layer_inputs, pieces)
        return *pieces.once(_logits, self.config, weights, x), caches

    def _begin(
        self,
        weights: Weights,
        embeddings: torch.Tensor,
        per_layer_embeddings: torch.Tensor,
        input_pos: torch.Tensor,
        mask: torch.Tensor,
        param_tensor: torch.Tensor,
        caches: Caches,
        pieces: Pieces,
        may_overrun: bool = False,
    ) -> tuple[Step, torch.Tensor, Caches]:
        """What all layers share, their own inputs `[1, T, layers, ple_dim]`, and a dict of the caches to be changed."""
        arguments = input_pos, mask, param_tensor, self.kv.length, may_overrun
        step = pieces.once(begin_step, self.config, weights, *arguments)
        per_layer_inputs = pieces.once(_per_layer_inputs, self.config, weights, embeddings, per_layer_embeddings)
        return step, per_layer_inputs, dict(caches)

    def _write(
        self, weights: Weights, cache: LayerCache, x: torch.Tensor, step: Step, caches: Caches, pieces: Pieces
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write this step's rows of one layer, put the updated tensors into `caches` and return them."""
        old, kind = (caches[cache.key_name], caches[cache.value_name]), self.config.layer_types[cache.layer]
        new = pieces.layer(_write_rows, kind, self.config, weights, cache.layer, x, step, old)
        caches[cache.key_name], caches[cache.value_name] = new
        return new

    def _layer(
        self,
        weights: Weights,
        layer: int,
        x: torch.Tensor,
        step: Step,
        cache: tuple[torch.Tensor, torch.Tensor],
        per_layer_inputs: torch.Tensor,
        pieces: Pieces,
    ) -> torch.Tensor:
        """The residual stream `x` `[1, T, D]` after `layer`, which reads `cache`."""
        config = self.config
        per_layer_input = pieces.of_layer(per_layer_inputs, layer)
        x = pieces.layer(add_attention, config.layer_types[layer], config, weights, layer, x, step, cache)
        return pieces.layer(add_mlp, None, config, weights, layer, x, per_layer_input)


def _per_layer_inputs(
    config: TargetConfig, weights: Weights, embeddings: torch.Tensor, per_layer_embeddings: torch.Tensor
) -> torch.Tensor:
    """Per-layer inputs `[1, T, layers, ple_dim]`: token identity and context projection, averaged by energy."""
    projected = linear(embeddings, weights["per_layer_model_projection.weight"]) * config.hidden_size**-0.5
    projected = projected.view(1, -1, config.layers, config.ple_dim)
    projected = rms_norm(projected, weights["per_layer_projection_norm.weight"], config.rms_norm_eps)
    return (projected + per_layer_embeddings) * 2.0**-0.5


def _write_rows(
    config: TargetConfig,
    weights: Weights,
    layer: int,
    x: torch.Tensor,
    step: Step,
    cache: tuple[torch.Tensor, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """`cache` with this step's rows of `layer`, made of the residual stream `x` `[1, T, D]`."""
    return write_kv(config, weights, layer, attention_input(config, weights, layer, x), step, cache)


def _logits(config: TargetConfig, weights: Weights, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits `[1, T, V]` and activations `[1, T, D]` of the residual stream `x` `[1, T, D]` after the last layer."""
    activations = rms_norm(x, weights["norm.weight"], config.rms_norm_eps)
    logits = linear(activations, weights[head_name(config)])
    if (cap := config.final_logit_softcapping) is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits, activations
