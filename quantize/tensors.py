"""Tensor-wise quantization, by ai-edge-quantizer's own numeric functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ai_edge_quantizer import qtyping
from ai_edge_quantizer.algorithms.uniform_quantize.uniform_quantize_tensor import (
    tensor_zp_scale_from_min_max,
    uniform_quantize,
)

from .recipes import Format

BYTES_PER_ELEMENT = {"fp32": 4, "int8": 1}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as it goes into the file: `data`, and one float32 scale per output channel (axis 0) if quantized."""

    data: np.ndarray
    scales: np.ndarray | None


def store(values: np.ndarray, stored_as: Format) -> StoredTensor:
    """`values`, float32 `[channels, ...]`, in the given format."""
    if stored_as == "fp32":
        return StoredTensor(values, None)
    return _per_channel(values, bits=8)


def _per_channel(values: np.ndarray, bits: int) -> StoredTensor:
    """Symmetric, one scale per row of axis 0: max(abs(row)) / (2^(bits-1) - 1)."""
    axes = tuple(range(1, values.ndim))
    low, high = values.min(axis=axes, keepdims=True), values.max(axis=axes, keepdims=True)
    zero_points, scales = tensor_zp_scale_from_min_max(
        low, high, num_bits=bits, symmetric=True, granularity=qtyping.QuantGranularity.CHANNELWISE
    )
    params = qtyping.UniformQuantParams(
        num_bits=bits, quantized_dimension=0, scale=scales, zero_point=zero_points, symmetric=True
    )
    return StoredTensor(uniform_quantize(values, params), scales.reshape(-1).astype(np.float32))
