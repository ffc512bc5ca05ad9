"""One draft step of the MTP drafter.

Mirrors transformers' Gemma4AssistantForCausalLM with a query length of one. The drafter has no KV projections: its
queries read the target's caches, which hold keys already normalised and rotated.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..checkpoint.config import DrafterConfig, TargetConfig
from .clustered_head import clustered_logits, dense_logits
from .kv_cache import KVSignature, drafter_source
from .layers import Weights, add_attention, add_mlp, begin_step
from .lowerings import linear
from .norm import rms_norm
from .pieces import Pieces
from .target import Caches


@dataclass(frozen=True)
class DrafterModel:
    """The drafter on the caches of `target` that `kv` gives it.

    With `scatter`, a clustered head scatters its scores to their tokens, which a GPU cannot.
    """

    config: DrafterConfig
    target: TargetConfig
    kv: KVSignature
    scatter: bool = False

    def draft(
        self,
        weights: Weights,
        activations: torch.Tensor,
        input_pos: torch.Tensor,
        mask: torch.Tensor,
        param_tensor: torch.Tensor,
        caches: Caches,
        pieces: Pieces,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of the next token, and the activations that the next draft step takes.

        With the newest token at slot p not yet cached, every step of a round runs at position p - 1 over slots
        0..p-1 (LiteRT-LM, vLLM and mlx-vlm agree; transformers' candidate generator uses p).

        Args:
            weights: by checkpoint name.
            activations: float32 `[1, 1, 2 * D]`: the newest token's embedding as the target takes it, then the
                target's activations or the previous step's projected ones.
            input_pos: int32 `[1]`.
            mask: float32 `[1, 1, 1, L]`, 0 where the query attends.
            param_tensor: int32 `[1, 1, 1, 7]`.
            caches: the tensors of `kv.drafter`.
            pieces: what runs the parts of the step.

        Returns:
            Logits float32 `[1, 1, V]` and projected activations float32 `[1, 1, D]`.
        """
        config = self.config
        by_layer = {cache.layer: (caches[cache.key_name], caches[cache.value_name]) for cache in self.kv.drafter}
        step = pieces.once(begin_step, config, weights, input_pos, mask, param_tensor, self.kv.length)
        x = pieces.once(_layers_input, config, weights, activations)
        for layer in range(config.layers):
            kind, cache = config.layer_types[layer], by_layer[drafter_source(self.target, config, layer)]
            x = pieces.layer(add_attention, kind, config, weights, layer, x, step, cache)
            x = pieces.layer(add_mlp, None, config, weights, layer, x)
        return pieces.once(_logits, config, weights, x, self.scatter)


def _layers_input(config: DrafterConfig, weights: Weights, activations: torch.Tensor) -> torch.Tensor:
    """Residual stream `[1, 1, H]` before the first layer."""
    del config
    return linear(activations, weights["pre_projection.weight"])


def _logits(
    config: DrafterConfig, weights: Weights, x: torch.Tensor, scatter: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits `[1, 1, V]` and projected activations `[1, 1, D]` of the residual stream after the last layer."""
    hidden = rms_norm(x, weights["norm.weight"], config.rms_norm_eps)
    projected = linear(hidden, weights["post_projection.weight"])
    if config.clusters is None:
        return dense_logits(config, weights, hidden), projected
    return clustered_logits(config, weights, hidden, scatter=scatter), projected
