"""Formats in which a bundle stores a weight, and where each runs.

Measured on ai-edge-litert 2.3.0 and litert-lm 0.18.1. Every integer format is symmetric, with zero point 0.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from ..runtime.errors import UserError

Backend = Literal["cpu", "gpu"]
# "kept": codes and scales are the checkpoint's own; no recipe can ask for it.
Algorithm = Literal["min_max", "octav", "mse", "recovery", "lattice", "kept"]


@dataclass(frozen=True)
class Format:
    """One way to store the `[channels, ...]` values of a weight.

    Attributes:
        name: as recipes write it.
        bits: of one value.
        is_float: float32 or float16, without scales.
        block: how many neighbours of a row share a scale; 0 where all of a row do.
        algorithms: what may choose the scales; the first is taken where a recipe names none.
        backends: where LiteRT runs it.
        note: what a person should know before choosing it.
    """

    name: str
    bits: int
    is_float: bool = False
    block: int = 0
    algorithms: tuple[Algorithm, ...] = ()
    backends: tuple[Backend, ...] = ("cpu", "gpu")
    note: str = ""

    def data_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of the values of a weight of `shape`, without scales."""
        return math.prod(shape) * self.bits // 8

    def scale_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of the scales of a weight of `shape`: a float32 and an int64 zero point for each channel, or a
        float16 for each block."""
        if self.is_float:
            return 0
        return 2 * math.prod(shape) // self.block if self.block else 12 * shape[0]


# The order of algorithms is that of the measured errors in README.md of this folder.
_PER_CHANNEL_4: tuple[Algorithm, ...] = ("octav", "min_max", "mse", "recovery", "lattice")
_NO_KERNEL = "XNNPACK has fast kernels for it on ARM and AMX only: on other x86 it is slower than int8"
_ON_CPU = "CPU bundles only: LiteRT's GPU accelerator crashes on it"
FORMATS = {
    found.name: found
    for found in (
        Format("fp32", 32, is_float=True),
        Format("fp16", 16, is_float=True, note="on the CPU it is opened to float32 when a bundle is loaded"),
        Format("int8", 8, algorithms=("min_max", "octav", "mse", "recovery")),
        Format("int4", 4, algorithms=_PER_CHANNEL_4, note=_NO_KERNEL),
        Format("int2", 2, algorithms=("octav", "min_max", "recovery"), note="for weights trained for it"),
        *(
            Format(
                f"int4_block{block}", 4, False, block, ("octav", "min_max", "recovery", "lattice"), ("cpu",), _ON_CPU
            )
            for block in (32, 64, 128)
        ),
    )
}


@dataclass(frozen=True)
class Storage:
    """How one weight is stored: its format and what chooses its scales, None where it has none."""

    format: Format
    algorithm: Algorithm | None = None

    @property
    def name(self) -> str:
        """`int4`, or `int4 (min_max)` where the algorithm is not the format's first."""
        first = self.format.algorithms[0] if self.format.algorithms else None
        return self.format.name if self.algorithm == first else f"{self.format.name} ({self.algorithm})"


def storage(name: str, algorithm: str | None = None, where: str = "format") -> Storage:
    """The format called `name`, with `algorithm` or its default; `where` begins errors.

    Raises:
        UserError: there is no such format, or no such algorithm for it.
    """
    if name not in FORMATS:
        raise UserError(f"{where}: {name!r} is no format{nearest(name, FORMATS)}")
    found = FORMATS[name]
    if algorithm is None:
        return Storage(found, found.algorithms[0] if found.algorithms else None)
    for known in found.algorithms:
        if known == algorithm:
            return Storage(found, known)
    if not found.algorithms:
        raise UserError(f"{where}: {name} has no scales, so no algorithm {algorithm!r}; leave it out")
    raise UserError(f"{where}: {algorithm!r} is no algorithm for {name}{nearest(algorithm, found.algorithms)}")


def nearest(name: str, known: Collection[str]) -> str:
    """`; did you mean ...?` or, if nothing is close, what there is."""
    close = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(close)}?" if close else f", expected one of {', '.join(known)}"


def kept(bits: int) -> Storage:
    """Codes of `bits` bits with a scale a channel, as a checkpoint has them."""
    return Storage(FORMATS[f"int{bits}"], "kept")


FP32, INT8 = storage("fp32"), storage("int8")
