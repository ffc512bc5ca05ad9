"""The token embedding and the per-layer embedding, models of their own that LiteRT-LM runs once per token.

Mirrors transformers' Gemma4TextScaledWordEmbedding: the scale is part of the model, because both the target and the
drafter take the output as it is.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ..checkpoint.config import TargetConfig
from .layers import Weights


def embed(config: TargetConfig, weights: Weights, token_ids: torch.Tensor) -> torch.Tensor:
    """Embedding times sqrt(hidden_size), float32 `[1, 1, D]`, of one token id, int32 `[1, 1]`."""
    rows = F.embedding(token_ids, weights["embed_tokens.weight"])
    return rows * config.hidden_size**0.5


def embed_per_layer(config: TargetConfig, weights: Weights, token_ids: torch.Tensor) -> torch.Tensor:
    """Per-layer embeddings times sqrt(ple_dim), float32 `[1, 1, layers, ple_dim]`, of one token id, int32 `[1, 1]`."""
    rows = F.embedding(token_ids, weights["embed_tokens_per_layer.weight"])
    return rows.view(1, 1, config.layers, config.ple_dim) * config.ple_dim**0.5
