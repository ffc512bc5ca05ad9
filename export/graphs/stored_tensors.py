"""What a format means to the tensors of a flatbuffer: their type, their quantization, and what opens them."""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from ...quantize.formats import Format

_TYPES = {
    "fp32": schema.TensorType.FLOAT32,
    "fp16": schema.TensorType.FLOAT16,
    "int8": schema.TensorType.INT8,
    "int4": schema.TensorType.INT4,
    "int2": schema.TensorType.INT2,
}


def declare(tensor: Any, form: Format, channels: int, block_scales: int) -> None:
    """Give `tensor`, a weight that was an input, the type of `form` and room for its scales.

    Args:
        tensor: object form.
        form: how the weight is stored.
        channels: number of scales; they follow with `set_scales`.
        block_scales: index of the tensor that holds the scales of blocks, where `form` has those.
    """
    tensor.type = _TYPES[form.name.partition("_")[0]]
    if form.is_float:
        return
    if not form.block:
        set_scales([tensor], np.ones(channels, np.float32))
        return
    details: Any = schema.BlockwiseQuantizationT()
    details.scales, details.zeroPoints, details.blockSize = block_scales, -1, form.block
    quantization: Any = schema.QuantizationParametersT()
    quantization.detailsType = schema.QuantizationDetails.BlockwiseQuantization
    quantization.details, quantization.quantizedDimension = details, 0
    tensor.quantization = quantization


def set_scales(tensors: list[Any], scales: np.ndarray) -> None:
    """In place where a tensor is quantized already: what is gathered from a table shares the table's quantization."""
    for tensor in tensors:
        quantization: Any = tensor.quantization or schema.QuantizationParametersT()
        quantization.scale = scales
        quantization.zeroPoint = np.zeros(len(scales), dtype=np.int64)
        quantization.quantizedDimension = 0
        tensor.quantization = quantization


def block_scales_tensor(name: str, shape: tuple[int, ...], block: int, buffer: int) -> Any:
    """A tensor, float16 `[channels, blocks]`, for the scales of weight `name` of `shape`."""
    scales: Any = schema.TensorT()
    scales.name, scales.buffer, scales.type = f"{name}_scales".encode(), buffer, schema.TensorType.FLOAT16
    scales.shape = np.array([shape[0], int(np.prod(shape[1:])) // block], np.int32)
    return scales
