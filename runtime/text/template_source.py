"""A template's source cut into text and tags, so that a tag can be changed while every other character stays."""

from __future__ import annotations

import re
from dataclasses import dataclass

_OPENING = re.compile(r"\{([{%#])([-+]?)")
_RAW = re.compile(r"\{%[-+]?\s*raw\s*[-+]?%\}.*?\{%[-+]?\s*endraw\s*[-+]?%\}", re.DOTALL)
_STRING = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_CODE = re.compile(rf"({_STRING})|([-+]?[%}}]\}})|.", re.DOTALL)
_CLOSING = {"{": "}}", "%": "%}"}
STRINGS = re.compile(_STRING, re.DOTALL)


@dataclass(frozen=True)
class Text:
    """Characters outside tags, or a whole `{% raw %}` block."""

    source: str
    raw: bool = False


@dataclass(frozen=True)
class Tag:
    """`{{ body }}`, `{% body %}` or `{# body #}`; `kind` is the second character, `left` and `right` are the marks for
    white space ("-", "+" or none). `line` counts from 1."""

    kind: str
    left: str
    body: str
    right: str
    line: int

    @property
    def source(self) -> str:
        closing = "#}" if self.kind == "#" else _CLOSING[self.kind]
        return f"{{{self.kind}{self.left}{self.body}{self.right}{closing}"

    @property
    def name(self) -> str:
        """The statement's keyword, such as `for`; empty for an expression or a comment."""
        words = self.body.split(None, 1)
        return re.match(r"\w*", words[0])[0] if self.kind == "%" and words else ""  # pyright: ignore[reportOptionalSubscript]


def cut(source: str) -> list[Text | Tag]:
    """The parts of `source`; their sources, joined, are `source` again.

    Raises:
        ValueError: a tag does not end.
    """
    parts: list[Text | Tag] = []
    at = 0
    while opening := _OPENING.search(source, at):
        start = opening.start()
        if start > at:
            parts.append(Text(source[at:start]))
        if raw := _RAW.match(source, start):
            parts.append(Text(raw[0], raw=True))
            at = raw.end()
            continue
        tag, at = _tag(source, opening)
        parts.append(tag)
    if at < len(source):
        parts.append(Text(source[at:]))
    return parts


def _tag(source: str, opening: re.Match[str]) -> tuple[Tag, int]:
    line = source.count("\n", 0, opening.start()) + 1
    kind, left, begin = opening[1], opening[2], opening.end()
    if kind == "#":
        end = source.find("#}", begin)
        if end < 0:
            raise ValueError(f"line {line}: a comment does not end")
        right = source[end - 1] if end > begin and source[end - 1] in "-+" else ""
        return Tag(kind, left, source[begin : end - len(right)], right, line), end + 2
    depth, at = 0, begin
    while token := _CODE.match(source, at):
        if token[2] and not depth and token[2].endswith(_CLOSING[kind]):
            return Tag(kind, left, source[begin:at], token[2][:-2], line), token.end()
        width = 1 if token[2] else len(token[0])
        depth += {"[": 1, "(": 1, "{": 1, "]": -1, ")": -1, "}": -1}.get(source[at : at + width], 0)
        at += width
    raise ValueError(f"line {line}: a tag does not end")
