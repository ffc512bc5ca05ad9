"""Skeleton and weights to a .tflite model: every weight input becomes a constant, streamed behind the flatbuffer.

LiteRT reads a buffer from `offset` and `size` counted from the start of the model, so models pass the two gigabytes
that a flatbuffer can address, and no more than a few blocks of a weight are in memory at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from ...quantize.recipes import Format, Recipe
from ...quantize.tensors import BYTES_PER_ELEMENT, StoredTensor, store
from ...runtime.bundle.flatbuffer import pack
from ..checkpoint.values import Part
from ..checkpoint.weights import HEAD_ROWS, HEAD_SCALES, Role, Weight
from ..parallel import in_order
from .skeleton import fill_instead_of_broadcast, gather_rows
from .trace import WEIGHT_PREFIX

_ALIGNMENT = 64
_SCALES_OF = {HEAD_ROWS: HEAD_SCALES}
_TENSOR_TYPES = {"fp32": schema.TensorType.FLOAT32, "int8": schema.TensorType.INT8}


# Takes bytes and their place, counted from the model's start.
Put = Callable[[int, Any], None]


@dataclass
class _Slot:
    """A weight's place in the model, its buffer, and the tensors of all graphs that use it.

    Of its values, `written` bytes have been written, with one scale per row in `scales` if its format has them.
    """

    weight: Weight
    stored_as: Format
    buffer: Any
    tensors: list[Any]
    written: int = 0
    scales: list[np.ndarray] = field(default_factory=list)

    @property
    def size(self) -> int:
        return _bytes(self.weight, self.stored_as)


def format_of(weight: Weight, recipe: Recipe) -> Format:
    """The format in which `recipe` stores `weight`."""
    if weight.role is Role.LINEAR:
        return recipe.linear
    return recipe.table if weight.role in (Role.TABLE, Role.GATHERED) else "fp32"


@dataclass
class BoundModel:
    """A model in which every weight has its place: `size` bytes, the first `head` of them for the flatbuffer."""

    model: Any
    slots: dict[str, _Slot]
    head: int
    size: int


def stored_bytes(weight: Weight, recipe: Recipe) -> int:
    """Bytes that `weight` takes, without scales that stand in the flatbuffer."""
    return _bytes(weight, format_of(weight, recipe))


def _bytes(weight: Weight, stored_as: Format) -> int:
    return math.prod(weight.shape) * BYTES_PER_ELEMENT[stored_as]


def bind(model: Any, weights: dict[str, Weight], recipe: Recipe) -> BoundModel:
    """Make constants of the weights of `model`, a merged skeleton; none is read yet.

    Args:
        model: object form; changed in place.
        weights: every weight of the model by name.
        recipe: how to store them. All signatures share one buffer per weight.
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
    return BoundModel(model, slots, head, offset)


def write_model(
    bound: BoundModel,
    parts_of: Callable[[Weight], Iterable[Part]],
    put: Put,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> None:
    """Read, quantize and write every weight, once each, then the flatbuffer, which holds the scales.

    Threads quantize; bytes are put by the calling thread in an order of their own that depends on nothing but the
    model.

    Args:
        bound: from `bind`.
        parts_of: a weight's values in parts, each of blocks of whole rows, float32, or int32 where its role is INDEX.
        put: writes; what is put nowhere is zero.
        on_bytes: called with how many bytes of weights were written since.
    """
    slots = bound.slots
    for slot, blocks in in_order(_parts(slots.values(), parts_of)):
        for block in blocks:
            put(slot.buffer.offset + slot.written, np.ascontiguousarray(block.data).data)
            slot.written += block.data.nbytes
            if block.scales is not None:
                slot.scales.append(block.scales)
        on_bytes(sum(block.data.nbytes for block in blocks))
    for slot in slots.values():
        if slot.weight.role is Role.SCALES:
            continue  # Written with its rows.
        if slot.written != slot.size:
            raise AssertionError(f"{slot.weight.name}: wrote {slot.written} bytes, expected {slot.size}")
        scales = np.concatenate(slot.scales) if slot.scales else None
        if slot.weight.role is Role.GATHERED:
            scales = _put_scales(put, slots[_SCALES_OF[slot.weight.name]], scales)
        if scales is not None:
            _set_scales(slot.tensors, scales)
    content = pack(bound.model)
    if _round_up(len(content)) != bound.head:
        raise AssertionError("the flatbuffer's length changed while weights were bound")
    put(0, content)


def _parts(
    slots: Iterable[_Slot], parts_of: Callable[[Weight], Iterable[Part]]
) -> Iterator[Callable[[], tuple[_Slot, list[StoredTensor]]]]:
    for slot in slots:
        if slot.weight.role is not Role.SCALES:
            yield from (partial(_stored, slot, part) for part in parts_of(slot.weight))


def _stored(slot: _Slot, part: Part) -> tuple[_Slot, list[StoredTensor]]:
    """Rows are quantized alone, so the result does not depend on the blocks."""
    return slot, [store(block, slot.stored_as) for block in part()]


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


def _put_scales(put: Put, slot: _Slot, scales: np.ndarray | None) -> np.ndarray | None:
    """Put what is left of a gathered weight's scales after the one that its whole table gets, which is returned.

    That one is a power of two in the middle of them: so the quotient is exact, and a score before it is multiplied by
    the rest is about as large as after it, while a sum of bare codes would overflow in float16.
    """
    common = None
    if scales is not None:
        common = np.exp2(np.round(np.log2(np.median(scales)))).astype(np.float32).reshape(1)
        scales = scales / common
    put(slot.buffer.offset, (np.ones(slot.weight.shape, np.float32) if scales is None else scales).data)
    return common


def _round_up(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
