"""Seeded damage to bytes and to JSON values."""

from __future__ import annotations

import json
import random
from typing import Any

# What lengths, offsets and indices are most often wrong at.
NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, (1 << 64) - 1)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**64, 10**400, 0.5, -0.0, float("nan"), float("inf"), "", "x", "0",
    "\x1b[31m\n", "\ud800", [], [[]], [None], {}, {"a": None}, [0] * 1000, "x" * 10_000,
)  # fmt: skip


def mutate_bytes(content: bytes, chance: random.Random, begin: int = 0, end: int | None = None) -> bytes:
    """`content` with one to four pieces of damage, each beginning within `begin`..`end`."""
    found, end = bytearray(content), len(content) if end is None else end
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(begin, max(min(end, len(found)), begin + 1))
        kind = chance.choice(("bit", "byte", "number", "number", "zeros", "copy", "cut", "insert", "end"))
        length = chance.choice((1, 4, 16, 256))
        if at >= len(found):
            continue
        if kind == "bit":
            found[at] ^= 1 << chance.randrange(8)
        elif kind == "byte":
            found[at] = chance.randrange(256)
        elif kind == "number":
            size = chance.choice((1, 2, 4, 8))
            at -= at % size
            found[at : at + size] = (chance.choice(NUMBERS) % (1 << 8 * size)).to_bytes(size, "little")
        elif kind == "zeros":
            found[at : at + length] = bytes(len(found[at : at + length]))
        elif kind == "copy":
            source = chance.randrange(len(found))
            piece = found[source : source + length]
            found[at : at + len(piece)] = piece
        elif kind == "cut":
            del found[at : at + length]
        elif kind == "insert":
            found[at:at] = chance.randbytes(length)
        elif chance.random() < 0.3:
            del found[at:]
    return bytes(found)


def mutate_json(value: Any, chance: random.Random) -> Any:
    """A copy of `value` with one entry, at any depth, replaced, left out or renamed."""
    copy = json.loads(json.dumps(value))
    places = list(_places(copy))
    if not places or chance.random() < 0.02:
        return chance.choice(VALUES)
    holder, key = chance.choice(places)
    action = chance.random()
    if action < 0.15:
        del holder[key]
    elif action < 0.2 and isinstance(holder, dict):
        holder[f"{key}_"] = holder.pop(key)
    elif action < 0.3 and isinstance(holder[key], int | float):
        holder[key] = chance.choice((holder[key] * 2, holder[key] + 1, -holder[key], str(holder[key])))
    else:
        holder[key] = chance.choice(VALUES)
    return copy


def _places(value: Any) -> Any:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield value, key
        yield from _places(entry)
