"""Values of every weight: read from the checkpoint, rearranged for the graphs, or computed from the configuration."""

from __future__ import annotations

import numpy as np
import torch

from ..runtime.errors import UserError
from .checkpoint import Checkpoint
from .clustered_head import HEAD_ROWS, INVERSE_ORDERING, TOKEN_ORDERING, inverse_ordering
from .config import LAYER_TYPES, DecoderConfig
from .layers import ROPE_TABLES, rope_table
from .weights import Weight


def read_weight(checkpoint: Checkpoint, config: DecoderConfig, weight: Weight) -> np.ndarray:
    """Values of `weight`, float32, or int32 where its role is INDEX.

    Raises:
        UserError: the tensor cannot be read, holds NaN or infinity, or is no permutation where one is expected.
    """
    for layer_type in LAYER_TYPES:
        if weight.name == ROPE_TABLES[layer_type]:
            return rope_table(config.attention_of(layer_type), weight.shape[0]).numpy()
    if weight.source is None:
        raise ValueError(f"{weight.name} comes neither from the checkpoint nor from the configuration")
    tensor = checkpoint.read(weight.source)
    if weight.name == INVERSE_ORDERING:
        return _inverse_ordering(checkpoint, tensor).numpy()
    if not bool(torch.isfinite(tensor).all()):
        raise UserError(f"{checkpoint.folder}: {weight.source} holds NaN or infinity; the checkpoint is broken")
    if weight.name == HEAD_ROWS:
        return tensor[checkpoint.read(TOKEN_ORDERING).long()].numpy()
    return tensor.numpy()


def _inverse_ordering(checkpoint: Checkpoint, ordering: torch.Tensor) -> torch.Tensor:
    try:
        return inverse_ordering(ordering)
    except ValueError as error:
        raise UserError(f"{checkpoint.folder}: {TOKEN_ORDERING} is {error}") from error
