"""Codes on their way into a bundle: which weights a checkpoint holds as codes, and what each weight is stored from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from ....quantize.formats import Storage
from ....runtime.parity.weights.codes import Codes
from ..config import DecoderConfig
from ..files import Checkpoint
from ..values import read_codes, read_weight
from ..weights import Weight


def trained_bits(checkpoint: Checkpoint, weights: Iterable[Weight]) -> dict[str, int]:
    """Bits of the codes of those of `weights` that the checkpoint holds as codes, by name.

    Raises:
        UserError: a tensor's shape fits no number of bits.
    """
    found = {weight.name: checkpoint.trained_bits(weight.source) for weight in weights if weight.source}
    return {name: bits for name, bits in found.items() if bits}


def read_stored(
    checkpoint: Checkpoint, config: DecoderConfig, weight: Weight, storage: Storage
) -> Iterator[np.ndarray | Codes]:
    """What `weight` is stored from, in blocks of whole rows: codes where those are kept, values otherwise.

    Raises:
        UserError: see `read_weight` and `read_codes`.
    """
    if storage.algorithm == "kept":
        return read_codes(checkpoint, weight, storage.format.bits)
    return read_weight(checkpoint, config, weight)
