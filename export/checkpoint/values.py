"""Values of every weight: read from the checkpoint, rearranged for the graphs, or computed from the configuration."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch

from ...runtime.bundle.names import ROPE_STRIDE, ROPE_TABLES
from ...runtime.errors import UserError
from ...runtime.parity.weights.codes import Codes
from .config import LAYER_TYPES, AttentionConfig, DecoderConfig
from .files import Checkpoint
from .weights import HEAD_ROWS, HEAD_TOKENS, INVERSE_ORDERING, TOKEN_ORDERING, Weight

# Float32 bytes of a weight that are worked on at a time: what stays in a processor's caches. Quantizing 128 MB at once
# took 25 ns a value, two megabytes 1 ns (a core with 1 MB of its own and a share of 32).
_BLOCK_BYTES = 2 << 20
# Blocks that one thread makes in a row.
_BLOCKS_PER_PART = 8

Part = Callable[[], Iterator[np.ndarray]]
CodePart = Callable[[], Iterator[Codes]]


def read_weight(
    checkpoint: Checkpoint, config: DecoderConfig, weight: Weight, block_bytes: int = _BLOCK_BYTES
) -> Iterator[np.ndarray]:
    """Values of `weight` in blocks of whole rows (axis 0): float32, or int32 where its role is INDEX.

    Raises:
        UserError: the tensor cannot be read, holds NaN or infinity, or is no permutation where one is expected.
    """
    for part in weight_parts(checkpoint, config, weight, block_bytes):
        yield from part()


def weight_parts(
    checkpoint: Checkpoint, config: DecoderConfig, weight: Weight, block_bytes: int = _BLOCK_BYTES
) -> Iterator[Part]:
    """The blocks of `read_weight` as functions that give some of them, each on any thread, in the order of the rows.

    Raises:
        UserError: as of `read_weight`; most of them when a part is read.
    """
    for layer_type in LAYER_TYPES:
        for name, step in zip(ROPE_TABLES[layer_type], (1, ROPE_STRIDE), strict=True):
            if weight.name == name:
                yield partial(_rope_blocks, config.attention_of(layer_type), weight.shape[0], step)
                return
    if weight.source is None:
        raise ValueError(f"{weight.name} comes neither from the checkpoint nor from the configuration")
    if weight.name == INVERSE_ORDERING:
        yield partial(_inverse_ordering, checkpoint)
        return
    if weight.name == HEAD_TOKENS:
        yield partial(_head_tokens, checkpoint, weight.shape)
        return
    order = _order(checkpoint, weight)
    row_bytes = 4 * math.prod(weight.source_shape[1:])
    step = max(1, block_bytes // row_bytes)
    for start in range(0, len(order), step * _BLOCKS_PER_PART):
        yield partial(_blocks, checkpoint, weight.source, order[start : start + step * _BLOCKS_PER_PART], step)


def code_parts(
    checkpoint: Checkpoint, weight: Weight, bits: int, block_bytes: int = _BLOCK_BYTES
) -> Iterator[CodePart]:
    """Codes of `weight`, which the checkpoint holds as such, widened to `bits` each; in parts as of `weight_parts`.

    Raises:
        UserError: they cannot be read, or a scale is no positive number; most of it when a part is read.
    """
    assert weight.source is not None
    order = _order(checkpoint, weight)
    step = max(1, block_bytes // math.prod(weight.source_shape[1:]))
    for start in range(0, len(order), step * _BLOCKS_PER_PART):
        rows = order[start : start + step * _BLOCKS_PER_PART]
        yield partial(_code_blocks, checkpoint, weight.source, rows, step, bits)


def rope_table(attention: AttentionConfig, rows: int, step: int) -> torch.Tensor:
    """Cosines then sines of every `step`-th position for the pairs that turn, float32 `[rows, 2 * rotated_pairs]`.

    Graphs add the angles of a row of the fine table (`step` 1, ROPE_STRIDE rows) and of one of the coarse table (`step`
    ROPE_STRIDE), so neither grows with the context. Frequencies are `rope_theta ** (-2i / head_dim)`: proportional RoPE
    divides by the whole head size, however few of its pairs turn (transformers,
    `_compute_proportional_rope_parameters`). Tables keep them exact where a backend computes in float16, which cannot
    even hold positions above 2,048.
    """
    pairs = torch.arange(0, 2 * attention.rotated_pairs, 2, dtype=torch.int64).float()
    frequencies = 1.0 / (attention.rope_theta ** (pairs / attention.head_dim))
    # transformers rounds angles to float32; the fine table does so too, while the coarse one is the more exact.
    kind = torch.float32 if step == 1 else torch.float64
    angles = torch.arange(0, rows * step, step, dtype=kind)[:, None] * frequencies.to(kind)
    return torch.cat((angles.cos(), angles.sin()), dim=-1).float()


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


def _order(checkpoint: Checkpoint, weight: Weight) -> Sequence[int]:
    """Rows of a weight's tensor in the order of its own."""
    if weight.name != HEAD_ROWS:
        return range(weight.source_shape[0])
    _places(checkpoint)  # An ordering that names a row twice, or one that is not there, does not pass.
    return checkpoint.read(TOKEN_ORDERING).tolist()


def _code_blocks(checkpoint: Checkpoint, source: str, rows: Sequence[int], step: int, bits: int) -> Iterator[Codes]:
    for start in range(0, len(rows), step):
        yield checkpoint.codes(source, rows[start : start + step]).widened(bits)


def _blocks(checkpoint: Checkpoint, source: str, rows: Sequence[int], step: int) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), step):
        values = checkpoint.read_rows_at(source, rows[start : start + step]).numpy()
        if not np.isfinite(values).all():
            raise UserError(f"{checkpoint.folder}: {source} holds NaN or infinity; the checkpoint is broken")
        yield values


def _rope_blocks(attention: AttentionConfig, rows: int, step: int) -> Iterator[np.ndarray]:
    yield rope_table(attention, rows, step).numpy()


def _inverse_ordering(checkpoint: Checkpoint) -> Iterator[np.ndarray]:
    yield _places(checkpoint).numpy()


def _head_tokens(checkpoint: Checkpoint, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    _places(checkpoint)  # Refuses what is no permutation.
    yield checkpoint.read(TOKEN_ORDERING).to(torch.int32).reshape(shape).numpy()


def _places(checkpoint: Checkpoint) -> torch.Tensor:
    try:
        return inverse_ordering(checkpoint.read(TOKEN_ORDERING))
    except ValueError as error:
        raise UserError(f"{checkpoint.folder}: {TOKEN_ORDERING} is {error}") from error
