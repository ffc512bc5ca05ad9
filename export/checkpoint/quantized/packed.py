"""A checkpoint in transformers' layout for quant_method "gemma" (`integrations/gemma_quant.py`), read block by block.

| of a module | linear | embedding |
|---|---|---|
| codes | `weight` | `embedding_quantized` |
| scales, float32 `[rows, 1]` | `weight_scale` | `embedding_scale` |
| static scales of activations, 0 for none | `input_activation_scale`, `output_activation_scale` | |

Codes of 8 bits are int8 `[rows, columns]`. Those of 4 and 2 bits are uint8 `[rows, columns * bits / 8]`, the lowest
bits first, with half their range added: a value is (code - 2^(bits - 1)) * scale. Beside them attention may have
`k_cache_scale` and `v_cache_scale`, which transformers does not load.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import torch

from ....runtime.errors import UserError
from ....runtime.parity.weights.codes import Codes
from ..files import Checkpoint, Entry
from ..read_config import read_drafter_config, read_target_config
from ..weights import (
    EMBEDDING,
    HEAD,
    Weight,
    decode_weights,
    drafter_weights,
    embedder_weights,
    per_layer_embedder_weights,
)
from .settings import holds_codes

_WEIGHT, _TABLE = ".weight", ".embedding_quantized"
_SCALES = {_WEIGHT: ".weight_scale", _TABLE: ".embedding_scale"}
_STATIC = ("input_activation_scale", "output_activation_scale", "k_cache_scale", "v_cache_scale")
_CODE_DTYPES = frozenset({"U8", "I8"})
# Turns codes with half their range added into two's complement, in every place of a byte.
_TOP_BITS = {2: 0b10101010, 4: 0b10001000, 8: 0}


def open_checkpoint(source: str) -> Checkpoint:
    """The checkpoint `source`, a hub id or folder, whether it holds values or codes.

    Raises:
        UserError: it cannot be read, or is quantized by a method that is not read.
    """
    checkpoint = Checkpoint(source)
    packed = holds_codes(checkpoint.config, str(checkpoint.path("config.json")))
    return PackedCheckpoint(source) if packed else checkpoint


class PackedCheckpoint(Checkpoint):
    """A checkpoint whose large weights are codes.

    They read as the float32 values that transformers computes from them; `codes` gives them as they are.
    """

    packed = True

    def trained_bits(self, name: str) -> int | None:
        """Bits of a tensor's codes, if it holds those and not values.

        Raises:
            UserError: its shape fits no number of bits.
        """
        stored, entry = self._find(name)
        if entry.dtype not in _CODE_DTYPES:
            return None
        columns = math.prod(self._shapes[name][1:])
        fitting = {("I8", columns): 8, ("U8", -(-columns // 2)): 4, ("U8", -(-columns // 4)): 2}
        bits = fitting.get((entry.dtype, math.prod(entry.shape[1:])))
        if bits is None:
            wanted = ", ".join(f"{dtype} [..., {width}] ({bits} bits)" for (dtype, width), bits in fitting.items())
            raise UserError(
                f"{entry.file}: {stored} is {entry.dtype} {list(entry.shape)}, expected for its {columns} columns"
                f" {wanted}; it does not belong to this config.json"
            )
        if columns * bits % 8:
            raise UserError(
                f"{entry.file}: {stored} has rows of {columns} codes of {bits} bits, which fill no whole bytes: LiteRT"
                " does not read them; export the checkpoint before it was quantized"
            )
        return bits

    def codes(self, name: str, rows: Sequence[int]) -> Codes:
        """The given rows of a tensor that holds codes.

        Raises:
            UserError: it cannot be read, or a scale is no positive number.
        """
        stored, entry = self._find(name)
        bits = self.trained_bits(name)
        if bits is None:
            return super().codes(name, rows)
        data = np.ascontiguousarray(self._rows_of(stored, entry, rows).numpy()).view(np.uint8)
        scales_name = _scales_name(stored)
        scales = self._rows_of(scales_name, self._entries[scales_name], rows).numpy().reshape(-1)
        sound = np.isfinite(scales) & (scales > 0)
        if not sound.all():
            raise UserError(
                f"{self._entries[scales_name].file}: {scales_name} is {scales[~sound][0]} in row"
                f" {rows[int(np.argmin(sound))]}, expected a positive number; the checkpoint is broken"
            )
        return Codes(bits, data.reshape(len(data), -1) ^ np.uint8(_TOP_BITS[bits]), scales)

    def static_scales(self, weights: Iterable[Weight]) -> dict[str, dict[str, float]]:
        """Scales of activations and caches that belong to `weights`, by module and kind; those that are 0 left out."""
        found: dict[str, dict[str, float]] = {}
        for name in sorted(self._companions(weights)):
            module, _, kind = name.rpartition(".")
            if kind in _STATIC and (value := self._scalar(name)):
                found.setdefault(module.removeprefix(self.prefix), {})[kind] = value
        return found

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the values of all weights, by the name of the tensor that they come from."""
        where = str(self.path("config.json"))
        if self.config.get("model_type") == "gemma4_assistant":
            listed = drafter_weights(read_drafter_config(self.config, where), 1)
        else:
            config = read_target_config(self.config, where)
            listed = [*decode_weights(config), *embedder_weights(config), *per_layer_embedder_weights(config)]
        shapes = {weight.source: weight.source_shape for weight in listed if weight.source}
        return {HEAD: shapes[EMBEDDING], **shapes}

    def _check_form(self, weight: Weight, name: str, entry: Entry) -> None:
        scales, rows = _scales_name(name), weight.source_shape[0]
        found = self._entries.get(scales)
        if entry.dtype not in _CODE_DTYPES:
            if found:
                raise UserError(f"{entry.file}: {name} is {entry.dtype}, expected U8 or I8 codes, as it has {scales}")
            super()._check_form(weight, name, entry)
            return
        assert weight.source is not None
        self.trained_bits(weight.source)
        if entry.shape[0] != rows:
            raise UserError(f"{entry.file}: {name} has {entry.shape[0]} rows, expected {rows} from config.json")
        if found is None:
            raise UserError(
                f"{entry.file}: {name} holds {entry.dtype} codes, but {scales} is missing; is this checkpoint complete?"
            )
        if found.shape != (rows, 1) or found.dtype != "F32":
            raise UserError(
                f"{found.file}: {scales} is {found.dtype} {list(found.shape)}, expected F32 {[rows, 1]}, one scale for"
                f" each row of {name}"
            )

    def _take(self, name: str, rows: Sequence[int]) -> torch.Tensor:
        if self.trained_bits(name) is None:
            return super()._take(name, rows)
        return torch.from_numpy(self.codes(name, rows).values())

    def _stored_name(self, name: str) -> str | None:
        found = super()._stored_name(name)
        if found is None and name.endswith(_WEIGHT):
            found = super()._stored_name(name.removesuffix(_WEIGHT) + _TABLE)
        return found

    def _used_names(self, weights: Iterable[Weight]) -> set[str]:
        listed = list(weights)
        return super()._used_names(listed) | self._companions(listed)

    def _companions(self, weights: Iterable[Weight]) -> set[str]:
        """What is stored beside the codes of `weights`."""
        found = set()
        for name in super()._used_names(weights):
            module = name.rpartition(".")[0]
            attention = module.rpartition(".")[0]
            found |= {_scales_name(name), *(f"{owner}.{kind}" for owner in (module, attention) for kind in _STATIC)}
        return found & self._entries.keys()

    def _scalar(self, name: str) -> float:
        """A stored tensor of one value.

        Raises:
            UserError: it has more, or is no finite number.
        """
        entry = self._entries[name]
        values = self._rows_of(name, entry, range(1))
        if math.prod(entry.shape) != 1 or not bool(torch.isfinite(values.float()).all()):
            raise UserError(f"{entry.file}: {name} is {entry.dtype} {list(entry.shape)}, expected one finite number")
        return float(values)


def _scales_name(stored: str) -> str:
    """What the scales of the codes stored as `stored` are called."""
    module, _, kind = stored.rpartition(".")
    return module + _SCALES.get(f".{kind}", _SCALES[_WEIGHT])
