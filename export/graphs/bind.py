"""Skeleton and weights to a .tflite model: every weight input becomes a constant, streamed behind the flatbuffer.

LiteRT reads a buffer from `offset` and `size` counted from the start of the model, so models pass the two gigabytes
that a flatbuffer can address, and no more than a few blocks of a weight are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from ...quantize.formats import Storage
from ...quantize.tensors import StoredTensor, store
from ...runtime.bundle.flatbuffer import pack
from ...runtime.errors import UserError
from ...runtime.parity.weights.codes import Codes
from ..checkpoint.values import CodePart, Part
from ..checkpoint.weights import HEAD_ROWS, HEAD_SCALES, Role, Weight
from ..parallel import in_order
from .skeleton import fill_instead_of_broadcast, gather_rows, open_half_floats
from .stored_tensors import block_scales_tensor, declare, set_scales
from .tracing.trace import WEIGHT_PREFIX

_ALIGNMENT = 64
_SCALES_OF = {HEAD_ROWS: HEAD_SCALES}

# Takes bytes and their place, counted from the model's start.
Put = Callable[[int, Any], None]


@dataclass
class _Slot:
    """A weight's place in the model, its buffer, that of its blocks' scales if it has those, and the tensors of all
    graphs that use it.

    Of its values, `written` bytes have been written, with one scale per row or block in `scales` if its format has
    them.
    """

    weight: Weight
    stored_as: Storage
    buffer: Any
    scales_buffer: Any
    tensors: list[Any]
    written: int = 0
    scales: list[np.ndarray] = field(default_factory=list)

    @property
    def size(self) -> int:
        return self.stored_as.format.data_bytes(self.weight.shape)

    @property
    def buffers(self) -> list[Any]:
        """Behind the flatbuffer, in their order."""
        return [self.buffer] if self.scales_buffer is None else [self.buffer, self.scales_buffer]


@dataclass
class BoundModel:
    """A model in which every weight has its place: `size` bytes, the first `head` of them for the flatbuffer."""

    model: Any
    slots: dict[str, _Slot]
    head: int
    size: int


def bind(model: Any, weights: dict[str, Weight], stored: Mapping[str, Storage], first: str | None = None) -> BoundModel:
    """Make constants of the weights of `model`, a merged skeleton; none is read yet.

    Args:
        model: object form; changed in place.
        weights: every weight of the model by name.
        stored: how each is stored, by name. All signatures share one buffer per weight.
        first: the weight to lie right behind the flatbuffer.
    """
    slots = _take_weights_from_inputs(model, weights, stored)
    if first is not None:
        slots = {first: slots.pop(first), **slots}
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
    return BoundModel(model, slots, head, offset)


def share_weight(owner: BoundModel, other: BoundModel, distance: int) -> None:
    """Let the only weight of `other` be the bytes of the weight of that name of `owner`, which stores it alike.

    Scales of channels stay in the tensors of each; they are known when `owner` has been written, so `other` is written
    after it.

    Args:
        owner: begins `distance` bytes behind `other`.
        other: reaches from its own beginning to the end of that weight then.
        distance: a multiple of what buffers are aligned to, and no less than the flatbuffer of `other`.
    """
    ((name, slot),) = other.slots.items()
    owned = owner.slots[name]
    for buffer, source in zip(slot.buffers, owned.buffers, strict=True):
        buffer.offset = distance + source.offset
        other.size = buffer.offset + buffer.size
    owned.tensors += slot.tensors
    other.slots = {}


def write_model(
    bound: BoundModel,
    parts_of: Callable[[Weight], Iterable[Part | CodePart]],
    put: Put,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> None:
    """Read, quantize and write every weight, once each, then the flatbuffer, which holds the scales.

    Threads quantize; bytes are put by the calling thread in an order of their own that depends on nothing but the
    model.

    Args:
        bound: from `bind`.
        parts_of: a weight's values in parts, each of blocks of whole rows, float32, or int32 where its role is INDEX;
            codes go into the model as they are.
        put: writes; what is put nowhere is zero.
        on_bytes: called with how many bytes of weights were written since.

    Raises:
        UserError: a weight's values cannot be stored so.
    """
    slots = bound.slots
    for slot, blocks in in_order(_parts(slots.values(), parts_of)):
        for block in blocks:
            put(slot.buffer.offset + slot.written, block.data.data)
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
        if scales is not None and slot.scales_buffer is not None:
            put(slot.scales_buffer.offset, scales.reshape(-1).view(np.uint8).data)
        elif scales is not None:
            set_scales(slot.tensors, np.resize(scales, _channels(slot)))
    content = pack(bound.model)
    if _round_up(len(content)) != bound.head:
        raise AssertionError("the flatbuffer's length changed while weights were bound")
    put(0, content)


def _parts(
    slots: Iterable[_Slot], parts_of: Callable[[Weight], Iterable[Part | CodePart]]
) -> Iterator[Callable[[], tuple[_Slot, list[StoredTensor]]]]:
    for slot in slots:
        if slot.weight.role is not Role.SCALES:
            yield from (partial(_stored_part, slot, part) for part in parts_of(slot.weight))


def _stored_part(slot: _Slot, part: Part | CodePart) -> tuple[_Slot, list[StoredTensor]]:
    """Rows are quantized alone, so the result does not depend on the blocks."""
    try:
        return slot, [_stored(block, slot.stored_as) for block in part()]
    except ValueError as error:
        raise UserError(f"{slot.weight.source}: {error}; store it in another format") from error


def _stored(block: np.ndarray | Codes, stored_as: Storage) -> StoredTensor:
    if isinstance(block, Codes):
        return StoredTensor(block.data.reshape(-1), block.scales)
    return store(block, stored_as)


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
