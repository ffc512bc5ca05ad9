"""Values of every weight: read from the checkpoint, rearranged for the graphs, or computed from the configuration."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch

from ..runtime.errors import UserError
from .checkpoint import Checkpoint
from .clustered_head import HEAD_ROWS, INVERSE_ORDERING, TOKEN_ORDERING, inverse_ordering
from .config import LAYER_TYPES, DecoderConfig
from .layers import ROPE_TABLES, rope_table
from .weights import Weight

# Float32 bytes of a weight that are in memory at a time; E2B's per-layer table alone has 9.4 GB.
_BLOCK_BYTES = 128 << 20


def read_weight(
    checkpoint: Checkpoint, config: DecoderConfig, weight: Weight, block_bytes: int = _BLOCK_BYTES
) -> Iterator[np.ndarray]:
    """Values of `weight` in blocks of whole rows (axis 0): float32, or int32 where its role is INDEX.

    Raises:
        UserError: the tensor cannot be read, holds NaN or infinity, or is no permutation where one is expected.
    """
    for layer_type in LAYER_TYPES:
        if weight.name == ROPE_TABLES[layer_type]:
            yield rope_table(config.attention_of(layer_type), weight.shape[0]).numpy()
            return
    if weight.source is None:
        raise ValueError(f"{weight.name} comes neither from the checkpoint nor from the configuration")
    if weight.name == INVERSE_ORDERING:
        yield _inverse_ordering(checkpoint, checkpoint.read(weight.source)).numpy()
        return
    if weight.name == HEAD_ROWS:
        table = _finite(checkpoint, weight, checkpoint.read(weight.source))
        yield table[checkpoint.read(TOKEN_ORDERING).long()].numpy()
        return
    rows = weight.source_shape[0]
    row_bytes = 4 * math.prod(weight.source_shape[1:])
    step = max(1, block_bytes // row_bytes)
    for start in range(0, rows, step):
        block = checkpoint.read_rows(weight.source, start, min(rows, start + step))
        yield _finite(checkpoint, weight, block).numpy()


def _finite(checkpoint: Checkpoint, weight: Weight, values: torch.Tensor) -> torch.Tensor:
    if not bool(torch.isfinite(values).all()):
        raise UserError(f"{checkpoint.folder}: {weight.source} holds NaN or infinity; the checkpoint is broken")
    return values


def _inverse_ordering(checkpoint: Checkpoint, ordering: torch.Tensor) -> torch.Tensor:
    try:
        return inverse_ordering(ordering)
    except ValueError as error:
        raise UserError(f"{checkpoint.folder}: {TOKEN_ORDERING} is {error}") from error
