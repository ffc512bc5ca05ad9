"""`ExecutorMetadata`: are the state buffers it declares the caches that the target's graphs have?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ...bundle.model_file import ModelInfo
from ...bundle.names import key_name, value_name
from ...bundle.protos import ATTENTION_MASK_TYPE_CAUSAL, StateBuffer

_NAMES = ("prefill_input_name", "prefill_output_name", "decode_input_name", "decode_output_name")
_MASKS = ("mask", "attn_mask")


def state_buffer_problems(
    executor: Any, target: ModelInfo, layer_types: Sequence[str], window: int | None
) -> Iterator[str]:
    """What is wrong with the declared state buffers and mask, a line each.

    Args:
        executor: `LlmExecutorMetadata`.
        target: the bundle's prefill_decode.
        layer_types: transformers' type of each layer that has a cache of its own.
        window: transformers' `sliding_window`.
    """
    names = [name(layer) for layer in range(len(layer_types)) for name in (key_name, value_name)]
    declared = [buffer.decode_input_name for buffer in executor.state_buffers]
    yield from (f"no state buffer {name}" for name in names if name not in declared)
    yield from (f"state buffer {name} is of no layer with a cache" for name in declared if name not in names)
    yield from (f"state buffer {name} is declared twice" for name in sorted(set(declared)) if declared.count(name) > 1)
    kinds = {key_name(layer): ("KEY", kind) for layer, kind in enumerate(layer_types)}
    kinds |= {value_name(layer): ("VALUE", kind) for layer, kind in enumerate(layer_types)}
    for buffer in executor.state_buffers:
        name = buffer.decode_input_name
        given = [getattr(buffer, field) for field in _NAMES]
        if len(set(given)) > 1:
            yield f"state buffer {name}: its names differ ({', '.join(given)}), expected one name"
        if name in kinds:
            yield from _place_problems(buffer, target, *kinds[name])
    settings = executor.attention_mask_settings
    if settings.attention_mask_type != ATTENTION_MASK_TYPE_CAUSAL:
        yield f"attention_mask_type is {settings.attention_mask_type}, expected causal"
    if settings.sliding_window_size != (window or 0):
        yield f"sliding_window_size is {settings.sliding_window_size}, expected {window or 0}"


def _place_problems(buffer: Any, target: ModelInfo, role: str, layer_type: str) -> Iterator[str]:
    """Type and axis of one state buffer, by the shape that its tensor has in decode.

    A runtime may shorten what is LOCAL to the window, so only a sliding layer's cache that is shorter than the mask
    may be called so.
    """
    name, decode = buffer.decode_input_name, target.signature("decode")
    caches = decode.caches(written=False) if decode else {}
    mask = next((tensor for each in _MASKS if decode and (tensor := decode.input(each))), None)
    if mask is None or name not in caches:
        return
    shape, slots = caches[name][0], mask.shape[-1]
    # Keys are [1, heads, L, head_dim], values [1, heads, head_dim, L].
    axis = 2 if role == "KEY" else 3
    length = shape[axis]
    local = layer_type == "sliding_attention" and length < slots
    expected = getattr(StateBuffer, f"TYPE_{'LOCAL' if local else 'GLOBAL'}_{role}_CACHE")
    if buffer.type != expected:
        one, other = (StateBuffer.Type.Name(kind) if kind in StateBuffer.Type.values() else str(kind)
                      for kind in (buffer.type, expected))  # fmt: skip
        yield f"state buffer {name} is {one}, expected {other}"
    if buffer.sequence_axis != axis:
        yield f"state buffer {name}: sequence_axis is {buffer.sequence_axis}, expected {axis} of {list(shape)}"
