"""Lengths that LiteRT-LM takes for placeholders and replaces when it loads a bundle (its "magic numbers")."""

from __future__ import annotations

# From here on a prime is one.
_FIRST_PLACEHOLDER_PRIME = 11


def is_placeholder(length: int) -> bool:
    """Whether LiteRT-LM takes a prefill's or a cache's `length` for one that it may replace: a prime of 11 or more."""
    return length >= _FIRST_PLACEHOLDER_PRIME and all(length % factor for factor in range(2, int(length**0.5) + 1))


def replaced(size: int, placeholder: int, length: int) -> int:
    """What becomes of `size` where `placeholder` stands for `length`: only its multiples change."""
    return size if size % placeholder else size // placeholder * length
