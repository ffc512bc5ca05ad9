"""Skeleton and weights to a .tflite file: every weight input becomes a constant, streamed behind the flatbuffer.

LiteRT reads a buffer from `offset` and `size` counted from the start of the file, so models pass the two gigabytes
that a flatbuffer can address, and no more than one block of one weight is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from ...quantize.recipes import Format, Recipe
from ...quantize.tensors import BYTES_PER_ELEMENT, store
from ...runtime.bundle.flatbuffer import pack
from ..checkpoint.hub import sha256_of
from ..checkpoint.weights import HEAD_ROWS, HEAD_SCALES, Role, Weight
from .skeleton import fill_instead_of_broadcast, gather_rows
from .trace import WEIGHT_PREFIX

_ALIGNMENT = 64
_SCALES_OF = {HEAD_ROWS: HEAD_SCALES}
_TENSOR_TYPES = {"fp32": schema.TensorType.FLOAT32, "int8": schema.TensorType.INT8}


@dataclass(frozen=True)
class BoundFile:
    """A written .tflite file: its size in bytes and SHA-256."""

    size: int
    sha256: str


@dataclass
class _Slot:
    """A weight's place in the file, its buffer, and the tensors of all graphs that use it."""

    weight: Weight
    stored_as: Format
    buffer: Any
    tensors: list[Any]

    @property
    def size(self) -> int:
        return int(np.prod(self.weight.shape)) * BYTES_PER_ELEMENT[self.stored_as]


def format_of(weight: Weight, recipe: Recipe) -> Format:
    """The format in which `recipe` stores `weight`."""
    if weight.role is Role.LINEAR:
        return recipe.linear
    return recipe.table if weight.role in (Role.TABLE, Role.GATHERED) else "fp32"


def bind(
    model: Any,
    weights: dict[str, Weight],
    recipe: Recipe,
    read: Callable[[Weight], Iterable[np.ndarray]],
    path: Path,
    on_progress: Callable[[Weight], None] = lambda weight: None,
) -> BoundFile:
    """Write `model`, a merged skeleton, with its weights to `path`.

    Args:
        model: object form; changed in place.
        weights: every weight of the model by name.
        recipe: how to store them. All signatures share one buffer per weight.
        read: gives a weight's values in blocks of whole rows, float32, or int32 where its role is INDEX.
        path: a new file.
        on_progress: called with each weight as it is written.
    """
    slots = _take_weights_from_inputs(model, weights, recipe)
    gather_rows(model)
    fill_instead_of_broadcast(model)
    # Sizes do not depend on values, so the flatbuffer's length is known before any weight is read.
    head = _round_up(len(pack(model)))
    offset = head
    for slot in slots.values():
        slot.buffer.offset = offset
        offset = _round_up(offset + slot.size)
    with path.open("w+b") as file:
        for slot in slots.values():
            if slot.weight.role is Role.SCALES:
                continue  # Written with its rows.
            file.seek(slot.buffer.offset)
            scales = _write_blocks(file, slot, read(slot.weight))
            if slot.weight.role is Role.GATHERED:
                scales = _write_scales(file, slots[_SCALES_OF[slot.weight.name]], scales)
            if scales is not None:
                _set_scales(slot.tensors, scales)
            on_progress(slot.weight)
        file.truncate(offset)
        content = pack(model)
        if _round_up(len(content)) != head:
            raise AssertionError("the flatbuffer's length changed while weights were bound")
        file.seek(0)
        file.write(content)
    return BoundFile(offset, sha256_of(path))


def _take_weights_from_inputs(model: Any, weights: dict[str, Weight], recipe: Recipe) -> dict[str, _Slot]:
    slots: dict[str, _Slot] = {}
    for signature in model.signatureDefs:
        graph = model.subgraphs[signature.subgraphIndex]
        bound = {
            entry.tensorIndex: entry.name.decode().removeprefix(WEIGHT_PREFIX)
            for entry in signature.inputs
            if entry.name.decode().startswith(WEIGHT_PREFIX)
        }
        signature.inputs = [entry for entry in signature.inputs if entry.tensorIndex not in bound]
        graph.inputs = np.array([index for index in graph.inputs if int(index) not in bound], dtype=np.int32)
        for index, name in bound.items():
            if name not in slots:
                slots[name] = _new_slot(model, weights[name], recipe)
            slot, tensor = slots[name], graph.tensors[index]
            tensor.name = name.encode()
            tensor.buffer = model.buffers.index(slot.buffer)
            if slot.weight.role is not Role.INDEX:
                tensor.type = _TENSOR_TYPES[slot.stored_as]
            slot.tensors.append(tensor)
            if slot.stored_as != "fp32":
                channels = 1 if slot.weight.role is Role.GATHERED else slot.weight.shape[0]
                _set_scales([tensor], np.ones(channels, dtype=np.float32))
    return slots


def _new_slot(model: Any, weight: Weight, recipe: Recipe) -> _Slot:
    slot = _Slot(weight, format_of(weight, recipe), schema.BufferT(), [])
    slot.buffer.offset, slot.buffer.size = _ALIGNMENT, slot.size
    model.buffers.append(slot.buffer)
    return slot


def _set_scales(tensors: list[Any], scales: np.ndarray) -> None:
    """In place where a tensor is quantized already: what is gathered from a table shares the table's quantization."""
    for tensor in tensors:
        quantization: Any = tensor.quantization or schema.QuantizationParametersT()
        quantization.scale = scales
        quantization.zeroPoint = np.zeros(len(scales), dtype=np.int64)
        quantization.quantizedDimension = 0
        tensor.quantization = quantization


def _write_scales(file: BinaryIO, slot: _Slot, scales: np.ndarray | None) -> np.ndarray | None:
    """Write what is left of a gathered weight's scales after the one that its whole table gets, which is returned.

    That one is a power of two in the middle of them: so the quotient is exact, and a score before it is multiplied by
    the rest is about as large as after it, while a sum of bare codes would overflow in float16.
    """
    common = None
    if scales is not None:
        common = np.exp2(np.round(np.log2(np.median(scales)))).astype(np.float32).reshape(1)
        scales = scales / common
    file.seek(slot.buffer.offset)
    file.write((np.ones(slot.weight.shape, np.float32) if scales is None else scales).data)
    return common


def _write_blocks(file: BinaryIO, slot: _Slot, blocks: Iterable[np.ndarray]) -> np.ndarray | None:
    """Write a weight's rows block by block; one scale per row if its format has them. Rows are quantized alone, so
    the result does not depend on the blocks."""
    written, scales = 0, []
    for block in blocks:
        stored = store(block, slot.stored_as)
        written += file.write(np.ascontiguousarray(stored.data).data)
        if stored.scales is not None:
            scales.append(stored.scales)
    if written != slot.size:
        raise AssertionError(f"{slot.weight.name}: wrote {written} bytes, expected {slot.size}")
    return np.concatenate(scales) if scales else None


def _round_up(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
