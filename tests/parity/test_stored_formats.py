"""Each format of a stored weight has its exact bound: what ai-edge-quantizer makes passes, a step away fails."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ai_edge_quantizer import qtyping
from ai_edge_quantizer.algorithms.uniform_quantize.uniform_quantize_tensor import (
    tensor_zp_scale_from_min_max,
    uniform_quantize,
)

from gemma_mtp.runtime.bundle.constants import Constant, Quantization
from gemma_mtp.runtime.parity.weights.parameters import Parameter
from gemma_mtp.runtime.parity.weights.stored import Compared, compare

ROWS, COLUMNS, BLOCK = 40, 64, 32
VALUES = np.random.default_rng(0).standard_normal((ROWS, COLUMNS)).astype(np.float32)
VALUES[7] = 0
VALUES[8] = 1e-12


def packed(codes: np.ndarray, bits: int) -> bytes:
    """Codes side by side in bytes, the lowest bits first."""
    codes = codes.reshape(-1, 8 // bits).astype(np.int64) & ((1 << bits) - 1)
    return (codes << np.arange(0, 8, bits)).sum(axis=1).astype(np.uint8).tobytes()


def quantized(bits: int, values: np.ndarray = VALUES) -> tuple[np.ndarray, np.ndarray]:
    """Codes and scales, one scale a row, by ai-edge-quantizer."""
    low, high = values.min(axis=1, keepdims=True), values.max(axis=1, keepdims=True)
    zero_points, scales = tensor_zp_scale_from_min_max(
        low, high, num_bits=bits, symmetric=True, granularity=qtyping.QuantGranularity.CHANNELWISE
    )
    params = qtyping.UniformQuantParams(
        num_bits=bits, quantized_dimension=0, scale=scales, zero_point=zero_points, symmetric=True
    )
    return uniform_quantize(values, params), scales.reshape(-1).astype(np.float32)


def constant(content: bytes, dtype: str, scales: np.ndarray | None = None, block: int = 0) -> Constant:
    zeros = np.zeros(0, np.int64)
    quantization = None if scales is None else Quantization(scales, zeros, 0, block)
    return Constant("w", dtype, (ROWS, COLUMNS), quantization, memoryview(content), (0, len(content)))


def against(stored: Constant, values: np.ndarray = VALUES) -> Compared:
    """Compared in blocks of a few rows."""
    truth = torch.from_numpy(values)
    parameter = Parameter("prefill_decode", ("w",), values.shape, lambda start, stop: truth[start:stop])
    return compare(stored, parameter, block_bytes=4 * COLUMNS * 7)


def text(found: Compared) -> str:
    assert found.difference is not None
    return found.difference.text


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_integer_formats(bits: int) -> None:
    codes, scales = quantized(bits)
    dtype = f"int{bits}"
    sound = against(constant(packed(codes, bits), dtype, scales))
    assert sound.difference is None
    assert 0.4 < sound.steps <= 0.501
    off = codes.copy()
    off[33, 5] -= np.sign(off[33, 5]) or 1
    assert "row 33, column 5" in text(against(constant(packed(off, bits), dtype, scales)))
    wider = scales.copy()
    wider[12] *= 1.5
    assert "row 12" in text(against(constant(packed(codes, bits), dtype, wider)))
    broken = scales.copy()
    broken[7] = np.nan  # Of a row of zeros.
    assert "row 7" in text(against(constant(packed(codes, bits), dtype, broken)))


def test_codes_that_use_half_of_the_range_are_named() -> None:
    codes, scales = quantized(7)
    found = text(against(constant(packed(codes, 8), "int8", scales)))
    assert "codes reach 63, expected 127" in found


def test_blockwise() -> None:
    codes, scales = quantized(4, VALUES.reshape(-1, BLOCK))
    half = scales.astype(np.float16).astype(np.float32).reshape(ROWS, -1)
    codes = np.clip(np.round(VALUES.reshape(ROWS, -1, BLOCK) / np.maximum(half, 1e-7)[..., None]), -7, 7)
    sound = constant(packed(codes.reshape(ROWS, COLUMNS), 4), "int4", half, BLOCK)
    values = np.where(np.abs(VALUES) < 1e-9, 0, VALUES)
    assert against(sound, values).difference is None
    half[20, 1] *= 2
    assert "row 20, column" in text(against(sound, values))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_floats_are_equal_bit_for_bit(dtype: str) -> None:
    stored = VALUES.astype(dtype)
    assert against(constant(stored.tobytes(), dtype)).difference is None
    stored[30, 3] = np.nextafter(stored[30, 3], np.array(9, dtype))
    assert "row 30, column 3" in text(against(constant(stored.tobytes(), dtype)))
    stored[31] = np.nan
    found = against(constant(stored.tobytes(), dtype))
    assert "row 31" in text(found)
    assert found.difference is not None
    assert found.difference.rows == 2


def test_what_cannot_be_compared_is_named() -> None:
    codes, scales = quantized(8)
    sound = constant(packed(codes, 8), "int8", scales)
    assert sound.quantization is not None
    zeros = Quantization(scales, np.ones(ROWS, np.int64))
    other_axis = Quantization(scales[:1].repeat(COLUMNS), np.zeros(0, np.int64), 1)
    for changed, named in (
        (replace(sound, dtype="uint8"), "uint8 with scales, a format that is not compared"),
        (replace(sound, quantization=None), "int8 without scales"),
        (replace(sound, quantization=zeros), "zero points"),
        (replace(sound, quantization=other_axis), "axis 1"),
        (replace(sound, quantization=Quantization(scales[:5], np.zeros(0, np.int64))), "5 scales, expected 40"),
        (replace(sound, shape=(COLUMNS, ROWS)), "shape [64, 40], expected [40, 64]"),
        (replace(sound, content=sound.content[:-1]), "2,559 bytes, expected 2,560"),
        (replace(sound, dtype="float8", quantization=None), "float8"),
    ):
        assert named in text(against(changed))
        assert against(changed).difference.rows == 0
