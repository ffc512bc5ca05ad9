"""Values of every weight: read from the checkpoint, rearranged for the graphs, or computed from the configuration."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from ...runtime.errors import UserError
from ...runtime.parity.weights.codes import Codes
from .config import LAYER_TYPES, AttentionConfig, DecoderConfig
from .files import Checkpoint
from .weights import HEAD_ROWS, INVERSE_ORDERING, ROPE_TABLES, TOKEN_ORDERING, Weight

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


def read_codes(checkpoint: Checkpoint, weight: Weight, bits: int, block_bytes: int = _BLOCK_BYTES) -> Iterator[Codes]:
    """Codes of `weight`, which the checkpoint holds as such, in blocks of whole rows; widened to `bits` each.

    Raises:
        UserError: they cannot be read, or a scale is no positive number.
    """
    assert weight.source is not None
    order: Sequence[int] = range(weight.source_shape[0])
    if weight.name == HEAD_ROWS:
        order = checkpoint.read(TOKEN_ORDERING).tolist()
    step = max(1, block_bytes // math.prod(weight.source_shape[1:]))
    for start in range(0, len(order), step):
        yield checkpoint.codes(weight.source, order[start : start + step]).widened(bits)


def rope_table(attention: AttentionConfig, length: int) -> torch.Tensor:
    """Cosines then sines of positions 0..length-1 for the pairs that turn, float32 `[length, 2 * rotated_pairs]`.

    Frequencies are `rope_theta ** (-2i / head_dim)`: proportional RoPE divides by the whole head size, however few of
    its pairs turn (transformers, `_compute_proportional_rope_parameters`). A table keeps them exact where a backend
    computes in float16, which cannot even hold positions above 2,048.
    """
    pairs = torch.arange(0, 2 * attention.rotated_pairs, 2, dtype=torch.int64).float()
    frequencies = 1.0 / (attention.rope_theta ** (pairs / attention.head_dim))
    angles = torch.arange(length, dtype=torch.float32)[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def inverse_ordering(token_ordering: torch.Tensor) -> torch.Tensor:
    """For each token id, its place in cluster order; int32 `[V]`.

    Args:
        token_ordering: integer `[V]`, the token id at each place (`masked_embedding.token_ordering`).

    Raises:
        ValueError: it is not a permutation of 0..V-1.
    """
    size = token_ordering.numel()
    places = torch.full((size,), -1, dtype=torch.int32)
    inside = bool(((token_ordering >= 0) & (token_ordering < size)).all())
    if inside:
        places[token_ordering.long()] = torch.arange(size, dtype=torch.int32)
    if not inside or bool((places < 0).any()):
        raise ValueError(f"not a permutation of the {size} token ids")
    return places


def _finite(checkpoint: Checkpoint, weight: Weight, values: torch.Tensor) -> torch.Tensor:
    if not bool(torch.isfinite(values).all()):
        raise UserError(f"{checkpoint.folder}: {weight.source} holds NaN or infinity; the checkpoint is broken")
    return values


def _inverse_ordering(checkpoint: Checkpoint, ordering: torch.Tensor) -> torch.Tensor:
    try:
        return inverse_ordering(ordering)
    except ValueError as error:
        raise UserError(f"{checkpoint.folder}: {TOKEN_ORDERING} is {error}") from error
