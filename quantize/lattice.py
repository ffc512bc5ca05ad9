"""The lattice that values lie on already, such as those of a model that was trained for 4 bits and saved in bfloat16.

A block of values lies on a lattice of b bits if there is a scale s so that every value is s times a code of -2^(b-1) to
2^(b-1) - 1, rounded to the type that the values were saved in. llama.cpp's Q4_0 divides by the signed extremum over -8
(`quantize_row_q4_0_ref`), so where a block's extremum is positive its code would be +8 here: LiteRT has no negative
scales (XNNPACK refuses them), and such a block is approximated.

ai-edge-quantizer's recovery takes the least difference between two values for the scale. bfloat16 has rounded them, so
that is off by some percent, and codes on a coarser lattice than the block's are not seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import ml_dtypes
import numpy as np

# Mantissa bits of float32 and bfloat16, the leading one left out.
_FLOAT32_BITS, _BFLOAT16_BITS = 23, 7
# Of the largest value over the largest code, for blocks on no lattice: what lies between clipping and none.
_AT_A_TIME = 2048  # Blocks of 32 that a core's cache holds with what is made of them.
_TRIES = (0.875, 0.9375, 1.0)


@dataclass(frozen=True)
class Lattice:
    """Scales of blocks, float32 `[blocks, 1]`, and which blocks they give every value of exactly, bool `[blocks]`."""

    scales: np.ndarray
    exact: np.ndarray


def find_lattice(blocks: np.ndarray, bits: int, *, half: bool) -> Lattice:
    """The lattice of each block of `blocks`, float32 `[blocks, size]`, finite; a few thousand blocks at a time.

    Args:
        blocks: values that share a scale.
        bits: of a code.
        half: scales must be float16; those of bfloat16's precision are preferred, to which XNNPACK rounds them.
    """
    found = [_find(blocks[start : start + _AT_A_TIME], bits, half) for start in range(0, len(blocks), _AT_A_TIME)]
    return Lattice(np.concatenate([part.scales for part in found]), np.concatenate([part.exact for part in found]))


def _find(blocks: np.ndarray, bits: int, half: bool) -> Lattice:
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    scales = np.zeros_like(largest)
    exact = largest[:, 0] == 0
    steps = 1 << (bits - 1)
    for steps_to_largest in range(steps, 0, -1):
        left = np.flatnonzero(~exact)
        if not left.size:
            break
        about = largest[left] / np.float32(steps_to_largest)
        likely = _fits(blocks[left], about, steps)
        left, about = left[likely], about[likely]
        found, fits = _exact_scales(blocks[left], about, half=half)
        scales[left[fits]] = found[fits]
        exact[left[fits]] = True
    left = np.flatnonzero(~exact)
    scales[left] = _nearest(blocks[left], largest[left] / np.float32(steps - 1), steps)
    return Lattice(scales, exact)


def _fits(blocks: np.ndarray, about: np.ndarray, steps: int) -> np.ndarray:
    """Whether the values are near multiples of `about` that there are codes for; bool `[blocks]`."""
    with np.errstate(all="ignore"):
        places = blocks / about
        codes = np.rint(places)
        # Both the value and the largest one, which `about` comes from, were rounded by up to 2^-9 of themselves.
        near = np.abs(places - codes) <= np.abs(codes) * np.float32(2**-_BFLOAT16_BITS)
    return near.all(axis=1) & (codes.min(axis=1) >= -steps) & (codes.max(axis=1) < steps)


def _exact_scales(blocks: np.ndarray, about: np.ndarray, *, half: bool) -> tuple[np.ndarray, np.ndarray]:
    """Scales near `about` that give every value exactly, and where there are such."""
    with np.errstate(all="ignore"):
        codes = np.rint(blocks / about)
        short = ((blocks.view(np.uint32) & 0xFFFF) == 0).all(axis=1, keepdims=True)  # Values of bfloat16.
        power = (blocks.view(np.uint32) & 0x7F800000).view(np.float32)  # Of two, below each value.
        room = power * np.where(short, np.float32(2 ** -(_BFLOAT16_BITS + 1)), np.float32(2**-_FLOAT32_BITS))
        size, counts = np.abs(blocks), np.abs(codes)
        least = np.where(codes == 0, 0, (size - room) / counts).max(axis=1, keepdims=True)
        most = np.where(codes == 0, np.inf, (size + room) / counts).min(axis=1, keepdims=True)
        found, fits = about.copy(), np.zeros(len(blocks), bool)
        for scales in _candidates(least, (least + most) / 2, half=half):
            values = codes * scales
            rounded = np.where(short, values.astype(ml_dtypes.bfloat16).astype(np.float32), values)
            same = (rounded == blocks).all(axis=1) & (scales[:, 0] > 0) & ~fits
            found[same], fits[same] = scales[same], True
    return found, fits


def _candidates(least: np.ndarray, middle: np.ndarray, *, half: bool) -> Iterator[np.ndarray]:
    """Scales from `least` on, those of few bits first."""
    kinds = [ml_dtypes.bfloat16, np.float16] if half else [ml_dtypes.bfloat16, np.float32]
    for kind in kinds:
        for start in (middle, least):
            scales = start.astype(kind)
            # A value that lies just between two numbers may be rounded to either, so the next scale is tried as well.
            for scale in (scales, np.nextafter(scales, kind(np.inf))):
                # What a float16 cannot hold is no scale there.
                yield scale.astype(np.float16 if half else np.float32).astype(np.float32)


def _nearest(blocks: np.ndarray, without_clipping: np.ndarray, steps: int) -> np.ndarray:
    """Of a few scales the one with the least square error."""
    best, least = without_clipping, np.full(without_clipping.shape, np.inf, np.float32)
    for share in _TRIES:
        scales = without_clipping * np.float32(share)
        error = np.square(np.clip(np.rint(blocks / scales), -steps, steps - 1) * scales - blocks)
        error = error.sum(axis=1, keepdims=True)
        best, least = np.where(error < least, scales, best), np.minimum(error, least)
    return best
