"""Attention products of sliding layers over the slots that a window can reach, instead of over the whole cache.

They stand in the decompositions of `odml.runtime_bmm`, so the CPU runs them and a GPU, which has kernels for the
composites, never sees them. Each row's sum has the same terms in the same order, whatever the pass: what lies outside
its window has share 0 and adds exact zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from .lowerings import dynamic_slice, row_products

# Rows of a long prefill that share one slice; more would multiply ever more slots that most of them cannot see.
ROWS_PER_WINDOW = 128


@dataclass(frozen=True)
class Window:
    """How far queries look back: `size` slots, their own included, for `tokens` queries in a row."""

    size: int
    tokens: int

    def cuts(self, length: int) -> bool:
        """Whether less than the whole of a cache of `length` slots is read."""
        return self.reach < length

    @property
    def reach(self) -> int:
        """Slots that one slice covers."""
        return self.size + min(self.tokens, ROWS_PER_WINDOW) - 1

    def slices(self, param_tensor: torch.Tensor, length: int) -> Iterator[tuple[int, int, torch.Tensor, int]]:
        """First query, number of queries, first slot (int32 `[]`) and number of slots of each slice."""
        for first in range(0, self.tokens, ROWS_PER_WINDOW):
            count = min(ROWS_PER_WINDOW, self.tokens - first)
            slots = self.size + count - 1
            start = param_tensor[0, 0, 0, 0] + (first - self.size + 1)
            yield first, count, start.clamp(0, length - slots), slots


def windowed_scores(
    query: torch.Tensor, cache_key: torch.Tensor, param_tensor: torch.Tensor, window: Window
) -> torch.Tensor:
    """`query` x `cache_key` as `query_key_product`, right in the columns of each row's window and 0 elsewhere."""
    from litert_torch.generative.custom_ops.dynamic_update_slice import dynamic_update_slice

    _, kv_heads, rows, head_dim = query.shape
    length, tokens = cache_key.shape[2], window.tokens
    query = query.reshape(kv_heads, -1, tokens, head_dim)
    # Zeros that seem to depend on an input: the converter would write others into the file, in full size.
    zeros = (param_tensor.sum() * 0).to(query.dtype).reshape(1, 1, 1, 1)
    scores = zeros.expand(kv_heads, rows // tokens, tokens, length)
    for first, count, start, slots in window.slices(param_tensor, length):
        zero = torch.zeros_like(start)
        keys = dynamic_slice(cache_key, [zero, zero, start, zero], [1, kv_heads, slots, head_dim])
        part = query[:, :, first : first + count].reshape(1, kv_heads, -1, head_dim)
        product = row_products(part, keys.to(part.dtype)).reshape(kv_heads, -1, count, slots)
        scores = dynamic_update_slice(scores, product, [zero, zero, torch.full_like(start, first), start])
    return scores.reshape(1, kv_heads, rows, length)


def windowed_values(
    shares: torch.Tensor, cache_value: torch.Tensor, param_tensor: torch.Tensor, window: Window
) -> torch.Tensor:
    """`shares` x `cache_value` as `weight_value_product`; `shares` must be 0 outside each row's window."""
    _, kv_heads, rows, length = shares.shape
    head_dim, tokens = cache_value.shape[2], window.tokens
    shares = shares.reshape(kv_heads, -1, tokens, length)
    mixed = []
    for first, count, start, slots in window.slices(param_tensor, length):
        zero = torch.zeros_like(start)
        begin = [zero, zero, torch.full_like(start, first), start]
        part = dynamic_slice(shares, begin, [kv_heads, rows // tokens, count, slots]).reshape(1, kv_heads, -1, slots)
        values = dynamic_slice(cache_value, [zero, zero, zero, start], [1, kv_heads, head_dim, slots])
        product = row_products(part, values.to(part.dtype))
        mixed.append(product.reshape(kv_heads, -1, count, head_dim))
    joined = mixed[0] if len(mixed) == 1 else torch.cat(mixed, dim=2)
    return joined.reshape(1, kv_heads, rows, head_dim)
