"""Tensor-wise quantization by ai-edge-quantizer's own numeric functions: a block of rows in, stored bytes out.

Every function looks at each row by itself, so that results do not depend on how a weight is cut into blocks, and holds
no state, so that threads may run it side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np
from ai_edge_quantizer import qtyping
from ai_edge_quantizer.algorithms.uniform_quantize import mse, octav
from ai_edge_quantizer.algorithms.uniform_quantize.dequantized_weight_recovery import (
    get_zp_scale_from_dequantized_symmetric_weights,
)
from ai_edge_quantizer.algorithms.uniform_quantize.uniform_quantize_tensor import (
    tensor_zp_scale_from_min_max,
    uniform_quantize,
)
from ai_edge_quantizer.transformations.transformation_utils import pack_data

from .formats import Format, Storage
from .lattice import find_lattice

# Of the Newton steps that ai-edge-quantizer takes, and the divisor for signed codes (octav.get_tensor_quant_params).
_OCTAV_STEPS, _OCTAV_DIVISOR = 10, 3.0
# Its tolerance for recovered weights (dequantized_weight_recovery._validate_recovered_weights).
_ON_LATTICE = 1e-4
_LEAST_HALF = np.finfo(np.float16).smallest_subnormal


@dataclass(frozen=True)
class StoredTensor:
    """Rows as they go into the file.

    Attributes:
        data: bytes of the values, row after row, uint8; codes of 4 and 2 bits are packed, the lowest bits first.
        scales: None for floats; else float32, `[rows]`, or float16 `[rows, blocks]`.
    """

    data: np.ndarray
    scales: np.ndarray | None


def store(values: np.ndarray, stored_as: Storage) -> StoredTensor:
    """`values`, float32 `[rows, ...]`, stored so.

    Raises:
        ValueError: a value does not fit float16, or a row fills no whole bytes or blocks.
    """
    form = stored_as.format
    if form.is_float:
        return StoredTensor(_bytes_of(_as_float(values, form)), None)
    columns = values.size // len(values)
    if columns * form.bits % 8 or (form.block and columns % form.block):
        raise ValueError(f"rows of {columns} values do not fill whole {'blocks' if form.block else 'bytes'}")
    assert stored_as.algorithm is not None
    rows = values.reshape(-1, form.block or columns)  # Of one scale each.
    scales = np.maximum(_SCALES[stored_as.algorithm](rows, form), _of_zeros(form)).astype(np.float32)
    if form.block:
        # As ai-edge-quantizer writes them: float16 with a mantissa of 7 bits. Zero is no scale, also for zeros.
        # A lattice's scale has been chosen so already, or has all of float16's bits because its values need them.
        short = scales if stored_as.algorithm == "lattice" else scales.astype(ml_dtypes.bfloat16)
        scales = np.maximum(short.astype(np.float16), _LEAST_HALF).astype(np.float32)
    params = qtyping.UniformQuantParams(
        num_bits=form.bits, quantized_dimension=0, scale=scales, zero_point=np.zeros_like(scales, np.int32),
        symmetric=True,
    )  # fmt: skip
    codes = uniform_quantize(rows, params)
    if stored_as.algorithm == "recovery" and (off := np.abs(codes * scales - rows).max()) > _ON_LATTICE:
        raise ValueError(f"values lie up to {off:.2g} off the lattice of {form.name} that recovery looks for")
    data = pack_data(form.bits, codes.reshape(-1).view(np.uint8))
    if form.block:
        return StoredTensor(data, scales.astype(np.float16).reshape(len(values), -1))
    return StoredTensor(data, scales.reshape(-1))


def dequantize(stored: StoredTensor, stored_as: Storage, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 values of `shape` that `stored` stands for."""
    form = stored_as.format
    if form.is_float:
        return stored.data.view(np.float32 if form.bits == 32 else np.float16).astype(np.float32).reshape(shape)
    codes = _unpack(stored.data, form.bits).reshape(-1, form.block or int(np.prod(shape[1:])))
    assert stored.scales is not None
    return (codes * stored.scales.astype(np.float32).reshape(-1, 1)).reshape(shape)


def _unpack(data: np.ndarray, bits: int) -> np.ndarray:
    """Codes, int8, of packed ones."""
    if bits == 8:
        return data.view(np.int8)
    parts = [(data << (8 - bits - shift)).view(np.int8) >> (8 - bits) for shift in range(0, 8, bits)]
    return np.stack(parts, axis=-1).reshape(-1)


def _as_float(values: np.ndarray, form: Format) -> np.ndarray:
    if form.bits == 32:
        return values
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise ValueError(f"the value {np.abs(values).max():g} does not fit float16, which ends at 65504")
    return half


def _bytes_of(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def _min_max(rows: np.ndarray, form: Format, clip: np.ndarray | None = None) -> np.ndarray:
    """The largest value of a row over the largest code."""
    low, high = rows.min(axis=1, keepdims=True), rows.max(axis=1, keepdims=True)
    _, scales = tensor_zp_scale_from_min_max(
        low, high, num_bits=form.bits, symmetric=True, granularity=qtyping.QuantGranularity.CHANNELWISE,
        clipping_values=clip,
    )  # fmt: skip
    return scales


def _of_zeros(form: Format) -> np.ndarray:
    """The scale of a row of zeros, `[1, 1]`: the smallest one there is."""
    return _min_max(np.zeros((1, 1), np.float32), form)


def _octav(rows: np.ndarray, form: Format) -> np.ndarray:
    """Clipped where rounding and clipping cost least (Sakr et al. 2022, "Optimal Clipping and Magnitude-aware
    Differentiation for Improved Quantization-aware Training").

    All steps are taken: ai-edge-quantizer ends them when no row of a tensor moves any more, which would make a row's
    scale depend on its neighbours.
    """
    clip = octav._guess_clipping_with_octav(
        rows, form.bits, 1, max_iterations=_OCTAV_STEPS, exponent_divisor=_OCTAV_DIVISOR, early_stop=False
    )
    return _min_max(rows, form, clip)


def _mse(rows: np.ndarray, form: Format) -> np.ndarray:
    """A multiple of the root of the mean square that is best for normally distributed values."""
    return mse._MSE_QUANT_MULS[form.bits] * np.sqrt(np.mean(rows**2, axis=1, keepdims=True))


def _recovery(rows: np.ndarray, form: Format) -> np.ndarray:
    """The step of the lattice that the values lie on already."""
    return get_zp_scale_from_dequantized_symmetric_weights(rows, quantized_dimension=0)[1]


def _lattice(rows: np.ndarray, form: Format) -> np.ndarray:
    """The scale that gives the values exactly, where they lie on a lattice; see lattice.py."""
    return find_lattice(rows, form.bits, half=bool(form.block)).scales


_SCALES: dict[str, Callable[[np.ndarray, Format], np.ndarray]] = {
    "min_max": _min_max,
    "octav": _octav,
    "mse": _mse,
    "recovery": _recovery,
    "lattice": _lattice,
}
