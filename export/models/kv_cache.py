"""The shared KV signature: names, shapes, layouts and format of every cache tensor, and which the drafter reads.

Keys are stored `[1, kv_heads, L, head_dim]`, values `[1, kv_heads, head_dim, L]`: the layouts
of Google's bundles and of litert-torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...runtime.bundle.context.placeholder import is_placeholder
from ...runtime.bundle.names import key_name, value_name
from ...runtime.errors import UserError
from ..checkpoint.config import DecoderConfig, DrafterConfig, TargetConfig

SEQUENCE_AXIS = {"k": 2, "v": 3}
CacheFormat = Literal["fp32", "fp16", "int8"]
# Every format in which caches can be stored, and its dtype. int8 has one scale for each tensor, and zero point 0.
CACHE_DTYPES: dict[CacheFormat, str] = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
# A prime length (of 11 or more) is a placeholder to LiteRT-LM; multiples of 16 never are, and suit its GPU's tiles.
_LENGTH_MULTIPLE = 16


def cache_length(context_length: int, longest_draft: int) -> int:
    """Slots L of every cache of a fixed context: verify may write `longest_draft + 1` rows past it."""
    needed = context_length + longest_draft + 1
    return -(-needed // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE


@dataclass(frozen=True)
class LayerCache:
    """Key and value cache of one KV-producing layer."""

    layer: int
    kv_heads: int
    head_dim: int
    length: int
    sliding: bool

    @property
    def key_name(self) -> str:
        return key_name(self.layer)

    @property
    def value_name(self) -> str:
        return value_name(self.layer)

    @property
    def key_shape(self) -> tuple[int, int, int, int]:
        return (1, self.kv_heads, self.length, self.head_dim)

    @property
    def value_shape(self) -> tuple[int, int, int, int]:
        return (1, self.kv_heads, self.head_dim, self.length)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of both tensors by name."""
        return {self.key_name: self.key_shape, self.value_name: self.value_shape}


@dataclass(frozen=True)
class KVSignature:
    """All caches that the target reads and writes, and those of them that the drafter reads; stored as `format`."""

    length: int
    target: tuple[LayerCache, ...]
    drafter: tuple[LayerCache, ...]
    format: CacheFormat = "fp32"

    @property
    def is_placeholder(self) -> bool:
        """Whether the length is one that LiteRT-LM replaces when it loads the bundle."""
        return is_placeholder(self.length)

    @property
    def dtype(self) -> str:
        """Of every cache tensor: `float32`, `float16` or `int8`."""
        return CACHE_DTYPES[self.format]

    def target_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all caches by tensor name, key then value, layer by layer."""
        return {name: shape for cache in self.target for name, shape in cache.shapes.items()}

    def drafter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the caches that the drafter takes, by tensor name."""
        return {name: shape for cache in self.drafter for name, shape in cache.shapes.items()}


def kv_signature(
    target: TargetConfig, drafter: DrafterConfig, length: int, stored_as: CacheFormat = "fp32"
) -> KVSignature:
    """The pair's KV signature for caches of `length` slots.

    The drafter reads the caches of the target's last KV-producing layer of each type that it has itself.
    """

    def cache(layer: int) -> LayerCache:
        attention = target.attention(layer)
        return LayerCache(layer, attention.kv_heads, attention.head_dim, length, attention.window is not None)

    read = sorted({drafter_source(target, drafter, layer) for layer in range(drafter.layers)})
    written = tuple(cache(layer) for layer in range(target.own_kv_layers))
    return KVSignature(length, written, tuple(cache(layer) for layer in read), stored_as)


def drafter_source(target: TargetConfig, drafter: DecoderConfig, layer: int) -> int:
    """The target layer whose cache the drafter's `layer` attends to."""
    return target.last_own_layer(drafter.layer_types[layer])


def check_shared(written: dict[str, tuple[tuple[int, ...], str]], read: dict[str, tuple[tuple[int, ...], str]]) -> None:
    """Check on finished graphs that every cache the drafter reads is one that the target writes.

    Both arguments map a tensor name to its shape and dtype.

    Raises:
        UserError: naming the first tensor that differs.
    """
    for name, (shape, dtype) in read.items():
        if name not in written:
            raise UserError(f"mtp_drafter: reads {name}, which the target does not write")
        if written[name] != (shape, dtype):
            found, expected = f"{dtype} {list(shape)}", f"{written[name][1]} {list(written[name][0])}"
            raise UserError(f"mtp_drafter: {name} is {found}, but the target writes {expected}")
