"""The two composites through which every graph touches the KV cache, and the SELECT mask.

`odml.cache_update` and `odml.runtime_bmm` carry names and attributes that LiteRT's GPU backend replaces with kernels
on its own packed cache layout; on the CPU their decompositions, written here, run. Names, inputs and attributes as in
litert-torch 0.10's experimental composites. litert-torch is imported where it is used: it takes seconds to load, and
only the processes that trace need it.

Rows are cast to the caches' dtype as they are written and back as they are read. The casts of int8 caches mean nothing
yet: a graph does not depend on weights, scales do, so binding makes QUANTIZE and DEQUANTIZE of them.
"""

from __future__ import annotations

from typing import Any

import torch

from ...runtime.bundle.names import CACHE_UPDATE, RUNTIME_BMM
from .lowerings import dynamic_slice, row_products
from .windowed import Window, windowed_scores, windowed_values

# Far below any score, yet inside float16: a row that is masked whole (prefill's padding) must not turn into NaN.
MASKED = -3e4
PARAM_TENSOR_SHAPE = (1, 1, 1, 7)


def cache_update(
    new_key: torch.Tensor,
    new_value: torch.Tensor,
    param_tensor: torch.Tensor,
    cache_key: torch.Tensor,
    cache_value: torch.Tensor,
    start: torch.Tensor,
    *,
    may_overrun: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Write T contiguous rows into both caches, from slot `start`; with `may_overrun`, those that still have a slot.

    Args:
        new_key: float32 `[1, kv_heads, T, head_dim]`.
        new_value: float32 `[1, kv_heads, T, head_dim]`; turned into the cache's layout here.
        param_tensor: int32 `[1, 1, 1, 7]`, `{start, end, end, 0, 0, 0, 0}`; what the GPU kernel reads.
        cache_key: `[1, kv_heads, L, head_dim]`; float32, float16 or int8.
        cache_value: `[1, kv_heads, head_dim, L]`, likewise.
        start: int32 `[]`, the first slot; what the CPU reads.

    Returns:
        The updated key and value caches.
    """
    from litert_torch.generative.custom_ops.dynamic_update_slice import dynamic_update_slice
    from litert_torch.hlfb import StableHLOCompositeBuilder

    _, kv_heads, length, head_dim = cache_key.shape
    builder = StableHLOCompositeBuilder(
        name=CACHE_UPDATE,
        attr={
            "kv_cache_batch_size": kv_heads,
            "cache_size": length,
            "head_size": head_dim,
            "is_ring_buffer": False,
        },
    )
    zero = torch.zeros_like(start)
    key_indices = torch.stack([zero, zero, start, zero])
    value_indices = torch.stack([zero, zero, zero, start])
    new_key, new_value, param_tensor, cache_key, cache_value, key_indices, value_indices = builder.mark_inputs(
        new_key, new_value, param_tensor, cache_key, cache_value, key_indices, value_indices
    )
    # The converter drops a composite's unused inputs, so the decomposition must touch param_tensor too.
    unused = (param_tensor.sum() * 0).to(new_key.dtype)
    key_rows = (new_key + unused).to(cache_key.dtype)
    value_rows = (new_value.transpose(2, 3) + unused).to(cache_value.dtype)
    if may_overrun:
        # Both indices are touched, as each must stay an input of the composite.
        key_rows, key_indices = _fitting_rows(key_rows, cache_key, key_indices, axis=2)
        value_rows, value_indices = _fitting_rows(value_rows, cache_value, value_indices, axis=3)
    updated_key = dynamic_update_slice(cache_key, key_rows, list(key_indices))
    updated_value = dynamic_update_slice(cache_value, value_rows, list(value_indices))
    return builder.mark_outputs(updated_key, updated_value)


def _fitting_rows(
    rows: torch.Tensor, cache: torch.Tensor, indices: torch.Tensor, axis: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """What to write and where, so that `rows` end up from `indices` on as far as `cache` reaches.

    An update always writes all T rows, so at the end it begins earlier: with old rows, then as many new ones as fit.
    """
    count, sizes, start = rows.shape[axis], list(rows.shape), indices[axis]
    zero = torch.zeros_like(start)

    def at(slot: torch.Tensor) -> list[torch.Tensor]:
        return [slot if place == axis else zero for place in range(4)]

    begin = start.clamp(max=cache.shape[axis] - count)
    before = dynamic_slice(cache, at((start - count).clamp(min=0)), sizes)
    together = torch.cat((before, rows), dim=axis)
    fitting = dynamic_slice(together, at(count - (start - begin)), sizes)
    return fitting, torch.stack(at(begin))


def query_key_product(
    query: torch.Tensor, cache_key: torch.Tensor, param_tensor: torch.Tensor, window: Window | None = None
) -> torch.Tensor:
    """Attention scores: `[1, kv_heads, M, head_dim]` x `[1, kv_heads, L, head_dim]` -> `[1, kv_heads, M, L]`.

    With `window`, whose tokens are the fastest axis of M, columns outside each row's window hold anything finite.
    """
    return _runtime_bmm(query, cache_key, param_tensor, window, is_value=False)


def weight_value_product(
    weights: torch.Tensor, cache_value: torch.Tensor, param_tensor: torch.Tensor, window: Window | None = None
) -> torch.Tensor:
    """Attention output: `[1, kv_heads, M, L]` x `[1, kv_heads, head_dim, L]` -> `[1, kv_heads, M, head_dim]`.

    With `window`, `weights` must be 0 outside each row's window.
    """
    return _runtime_bmm(weights, cache_value, param_tensor, window, is_value=True)


def _runtime_bmm(
    lhs: torch.Tensor, cache: torch.Tensor, param_tensor: torch.Tensor, window: Window | None, *, is_value: bool
) -> torch.Tensor:
    from litert_torch.hlfb import StableHLOCompositeBuilder

    builder: Any = StableHLOCompositeBuilder(
        name=RUNTIME_BMM,
        attr={"is_global": is_value, "is_src": is_value, "rhs_cache_update": True},
    )
    lhs, cache, param_tensor = builder.mark_inputs(lhs, cache, param_tensor)
    # Touch param_tensor on whichever side has head_dim columns, the far smaller one.
    unused = (param_tensor.sum() * 0).to(lhs.dtype)
    if window is not None and window.cuts(cache.shape[3 if is_value else 2]):
        cut_product = windowed_values if is_value else windowed_scores
        product = cut_product(lhs, cache, param_tensor, window)
    elif is_value:
        product = row_products(lhs, cache.to(lhs.dtype)) + unused
    else:
        product = row_products(lhs + unused, cache.to(lhs.dtype))
    return builder.mark_outputs(product)


def masked_scores(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Scores `[1, heads, T, L]` where `mask` `[1, 1, T, L]` is 0, MASKED elsewhere.

    By SELECT: adding the mask was seen to give wrong text on LiteRT-LM's GPU backend (0.18.1).
    """
    return torch.where(mask == 0, scores, MASKED)


def window_mask(mask: torch.Tensor, length: int, window: int) -> torch.Tensor:
    """The causal `mask` `[1, 1, T, L]` with the columns that lie `window` or more slots behind each query masked too.

    Such a column is one that stays unmasked `window` columns further on. Nothing here has L as a constant, so the mask
    follows a context that is chosen when the model is loaded; one of `[1, 1, T, 2 * L]` has those columns already.
    """
    causal = mask[..., :length]
    if mask.shape[-1] == length:
        mask = torch.cat((mask, mask.clamp(max=MASKED)), dim=-1)  # [1, 1, T, 2 * L]
    return torch.where(mask[..., window : window + length] == 0, MASKED, causal)
