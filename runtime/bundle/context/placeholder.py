"""Lengths that LiteRT-LM takes for placeholders and replaces when it loads a bundle (its "magic numbers")."""

from __future__ import annotations

import itertools

# From here on a prime is one.
_FIRST_PLACEHOLDER_PRIME = 11


def is_placeholder(length: int) -> bool:
    """Whether LiteRT-LM takes a prefill's or a cache's `length` for one that it may replace: a prime of 11 or more."""
    return length >= _FIRST_PLACEHOLDER_PRIME and all(length % factor for factor in range(2, int(length**0.5) + 1))


def placeholder_length(context_length: int) -> int:
    """Slots of every cache where the context is chosen at load, up to `context_length`: the next placeholder."""
    return next(length for length in itertools.count(context_length + 1) if is_placeholder(length))


def replaced(size: int, placeholder: int, length: int) -> int:
    """What becomes of `size` where `placeholder` stands for `length`: only its multiples change."""
    return size if size % placeholder else size // placeholder * length
