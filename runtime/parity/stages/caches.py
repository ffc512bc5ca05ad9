"""Rows of an engine's KV caches, in transformers' layout and float32, to compare and to replace."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ...bundle.names import key_name, value_name
from ...decoding.engine import Engine

_LEAST, _MOST = -128, 127  # int8
KeyValue = tuple[np.ndarray, np.ndarray]


def cache_names(layer: int) -> tuple[str, str]:
    """Names of a layer's key and value caches."""
    return key_name(layer), value_name(layer)


def read_rows(engine: Engine, layer: int, first: int, last: int) -> KeyValue:
    """Keys and values `[kv_heads, last - first, head_dim]` of slots `first`..`last - 1`, float32.

    Keys are stored `[1, kv_heads, L, head_dim]`, values `[1, kv_heads, head_dim, L]`.
    """
    key, value = (_floats(engine, name) for name in cache_names(layer))
    return key[0, :, first:last], value[0, :, :, first:last].swapaxes(1, 2)


def clear_rows(engine: Engine, layers: Iterable[int], first: int, last: int) -> None:
    """Put zeros into slots `first`..`last - 1` of the layers' caches, so that rows found there are rows written."""
    for layer in layers:
        for name, axis in zip(cache_names(layer), (2, 3), strict=True):
            whole = engine.read_cache(name)
            whole.swapaxes(2, axis)[:, :, first:last] = 0
            engine.write_cache(name, whole)


def write_rows(engine: Engine, layer: int, rows: KeyValue) -> None:
    """Replace slots 0..T-1 of a layer's caches by `rows`, keys and values `[kv_heads, T, head_dim]`, stored as the
    caches are."""
    count = rows[0].shape[1]
    for name, new, axes in zip(cache_names(layer), rows, ((0, 1, 2), (0, 2, 1)), strict=True):
        whole = engine.read_cache(name)
        view = whole[0].transpose(axes)  # [kv_heads, L, head_dim]
        scale = engine.contract.cache_scales.get(name)
        view[:, :count] = new if scale is None else np.clip(np.rint(new / np.float32(scale)), _LEAST, _MOST)
        engine.write_cache(name, whole)


def _floats(engine: Engine, name: str) -> np.ndarray:
    """A whole cache tensor's values."""
    values = engine.read_cache(name).astype(np.float32)
    return values * np.float32(engine.contract.cache_scales.get(name, 1.0))
