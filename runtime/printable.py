"""Text of strangers, as it may be shown on a terminal."""

from __future__ import annotations

import unicodedata

# Control characters, which begin a terminal's commands; and those that turn the direction of the text around them.
_HIDDEN = ("Cc", "Cs")
_LONGEST = 2000
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str, keep: str = "") -> str:
    """`text` with every character that could command a terminal written as its code, such as `\\x1b`; not those of
    `keep`."""
    return "".join(
        repr(character)[1:-1] if character not in keep and _commands(character) else character for character in text
    )


def _commands(character: str) -> bool:
    return character in _TURNING or unicodedata.category(character) in _HIDDEN


def one_line(text: str) -> str:
    """`text` in one line that may be shown, cut where it is longer than a person reads."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}... ({len(line):,} characters)"
