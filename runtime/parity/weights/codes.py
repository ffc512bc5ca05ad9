"""Codes of a quantized weight in the packing that LiteRT and this project's checkpoints share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Codes:
    """Rows of codes with one scale each: a value is its code times its row's scale.

    Attributes:
        bits: of one code: 2, 4 or 8.
        data: uint8 `[rows, columns * bits / 8]`, codes in two's complement, the lowest bits first.
        scales: float32 `[rows]`.
    """

    bits: int
    data: np.ndarray
    scales: np.ndarray

    def unpacked(self) -> np.ndarray:
        """The codes, int8 `[rows, columns]`."""
        if self.bits == 8:
            return self.data.view(np.int8)
        # Each shifted to the top of a byte first, which keeps its sign on the way down.
        tops = [(self.data << (8 - self.bits - low)).view(np.int8) for low in range(0, 8, self.bits)]
        return np.stack([top >> (8 - self.bits) for top in tops], axis=-1).reshape(len(self.data), -1)

    def values(self) -> np.ndarray:
        """Float32 `[rows, columns]`, as transformers computes them."""
        return self.unpacked() * self.scales[:, None]

    def widened(self, bits: int) -> Codes:
        """The same values in codes of `bits`, at least as many as now."""
        if bits == self.bits:
            return self
        codes = self.unpacked()
        if bits == 8:
            return Codes(8, codes.view(np.uint8), self.scales)
        places = np.arange(0, 8, bits, dtype=np.uint8)
        digits = codes.view(np.uint8).reshape(len(codes), -1, len(places)) & ((1 << bits) - 1)
        return Codes(bits, np.bitwise_or.reduce(digits << places, axis=-1).astype(np.uint8), self.scales)
