"""Skeleton and weights to a .tflite file: every weight input becomes a constant, streamed behind the flatbuffer.

LiteRT reads a buffer from `offset` and `size` counted from the start of the file, so models pass the two gigabytes
that a flatbuffer can address, and no more than one block of one weight is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from ...quantize.formats import Storage
from ...quantize.tensors import StoredTensor, store
from ...runtime.bundle.flatbuffer import pack
from ...runtime.errors import UserError
from ...runtime.parity.weights.codes import Codes
from ..checkpoint.hub import sha256_of
from ..checkpoint.weights import HEAD_ROWS, HEAD_SCALES, Role, Weight
from .skeleton import fill_instead_of_broadcast, gather_rows, open_half_floats
from .stored_tensors import block_scales_tensor, declare, set_scales
from .trace import WEIGHT_PREFIX

_ALIGNMENT = 64
_SCALES_OF = {HEAD_ROWS: HEAD_SCALES}


@dataclass(frozen=True)
class BoundFile:
    """A written .tflite file: its size in bytes and SHA-256."""

    size: int
    sha256: str


@dataclass
class _Slot:
    """A weight's place in the file, its buffer, that of its blocks' scales if it has those, and the tensors of all
    graphs that use it."""

    weight: Weight
    stored_as: Storage
    buffer: Any
    scales_buffer: Any
    tensors: list[Any]

    @property
    def size(self) -> int:
        return self.stored_as.format.data_bytes(self.weight.shape)

    @property
    def buffers(self) -> list[Any]:
        """Behind the flatbuffer, in their order."""
        return [self.buffer] if self.scales_buffer is None else [self.buffer, self.scales_buffer]


def bind(
    model: Any,
    weights: dict[str, Weight],
    stored: Mapping[str, Storage],
    read: Callable[[Weight], Iterable[np.ndarray | Codes]],
    path: Path,
    on_progress: Callable[[Weight], None] = lambda weight: None,
) -> BoundFile:
    """Write `model`, a merged skeleton, with its weights to `path`.

    Args:
        model: object form; changed in place.
        weights: every weight of the model by name.
        stored: how each is stored, by name. All signatures share one buffer per weight.
        read: gives a weight's values in blocks of whole rows, float32, or int32 where its role is INDEX; codes go
            into the file as they are.
        path: a new file.
        on_progress: called with each weight as it is written.

    Raises:
        UserError: a weight's values cannot be stored so.
    """
    slots = _take_weights_from_inputs(model, weights, stored)
    gather_rows(model)
    open_half_floats(model)
    fill_instead_of_broadcast(model)
    # Sizes do not depend on values, so the flatbuffer's length is known before any weight is read.
    head = _round_up(len(pack(model)))
    offset = head
    for slot in slots.values():
        for buffer in slot.buffers:
            buffer.offset = offset
            offset = _round_up(offset + buffer.size)
    with path.open("w+b") as file:
        for slot in slots.values():
            if slot.weight.role is Role.SCALES:
                continue  # Written with its rows.
            file.seek(slot.buffer.offset)
            scales = _write_blocks(file, slot, read(slot.weight))
            if slot.weight.role is Role.GATHERED:
                scales = _write_scales(file, slots[_SCALES_OF[slot.weight.name]], scales)
            if scales is not None and slot.scales_buffer is not None:
                file.seek(slot.scales_buffer.offset)
                file.write(scales.data)
            elif scales is not None:
                set_scales(slot.tensors, np.resize(scales, _channels(slot)))
            on_progress(slot.weight)
        file.truncate(offset)
        content = pack(model)
        if _round_up(len(content)) != head:
            raise AssertionError("the flatbuffer's length changed while weights were bound")
        file.seek(0)
        file.write(content)
    return BoundFile(offset, sha256_of(path))


def _take_weights_from_inputs(
    model: Any, weights: dict[str, Weight], stored: Mapping[str, Storage]
) -> dict[str, _Slot]:
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
                slots[name] = _new_slot(model, weights[name], stored[name])
            slot, tensor = slots[name], graph.tensors[index]
            tensor.name = name.encode()
            tensor.buffer = model.buffers.index(slot.buffer)
            slot.tensors.append(tensor)
            if slot.weight.role is not Role.INDEX:
                _declare(model, graph, slot, tensor)
    return slots


def _declare(model: Any, graph: Any, slot: _Slot, tensor: Any) -> None:
    """Give `tensor`, of `graph`, the type that the slot's weight is stored in."""
    form, shape = slot.stored_as.format, slot.weight.shape
    if form.block:
        buffer = model.buffers.index(slot.scales_buffer)
        graph.tensors.append(block_scales_tensor(slot.weight.name, shape, form.block, buffer))
    declare(tensor, form, _channels(slot), len(graph.tensors) - 1)


def _channels(slot: _Slot) -> int:
    """How many scales a weight's tensors have. The GPU gathers codes of eight bits only; narrower ones are looked up,
    which takes a scale for each row, here all the same."""
    copied = slot.weight.role is Role.GATHERED and slot.stored_as.format.bits == 8
    return 1 if copied else slot.weight.shape[0]


def _new_slot(model: Any, weight: Weight, stored_as: Storage) -> _Slot:
    form = stored_as.format
    slot = _Slot(weight, stored_as, schema.BufferT(), schema.BufferT() if form.block else None, [])
    sizes = (form.data_bytes(weight.shape), form.scale_bytes(weight.shape))
    for buffer, size in zip(slot.buffers, sizes, strict=False):
        buffer.offset, buffer.size = _ALIGNMENT, size
        model.buffers.append(buffer)
    return slot


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


def _write_blocks(file: BinaryIO, slot: _Slot, blocks: Iterable[np.ndarray | Codes]) -> np.ndarray | None:
    """Write a weight's rows block by block; one scale per row if its format has them. Rows are quantized alone, so
    the result does not depend on the blocks."""
    written, scales = 0, []
    for block in blocks:
        try:
            stored = _stored(block, slot.stored_as)
        except ValueError as error:
            raise UserError(f"{slot.weight.source}: {error}; store it in another format") from error
        written += file.write(stored.data.data)
        if stored.scales is not None:
            scales.append(stored.scales)
    if written != slot.size:
        raise AssertionError(f"{slot.weight.name}: wrote {written} bytes, expected {slot.size}")
    return np.concatenate(scales) if scales else None


def _stored(block: np.ndarray | Codes, stored_as: Storage) -> StoredTensor:
    if isinstance(block, Codes):
        return StoredTensor(block.data.reshape(-1), block.scales)
    return store(block, stored_as)


def _round_up(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
