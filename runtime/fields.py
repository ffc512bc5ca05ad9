"""Values read from JSON files: their types and ranges are checked where they are read, each in one line.

`read_json` and `parse_json` turn a file into plain values; `Fields` hands them out by key:

    fields = Fields(read_object(path), str(path))
    layers = fields.integer("num_hidden_layers", least=1, most=1024)
"""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from .errors import UserError

MOST_INTEGER = 2**31 - 1
_SHOWN_CHARACTERS = 60
_BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True)
class Fields:
    """The members of a JSON object.

    Every method names the value's place, what was found and what was expected in the `UserError` that it raises. A
    `default` of None makes a value required; null counts as a value, and is of no type.

    Attributes:
        values: the object.
        where: names the file in errors.
        path: names the object within the file, with a dot behind it.
    """

    values: Mapping[str, Any]
    where: str
    path: str = ""

    def has(self, key: str) -> bool:
        """Is there a value other than null?"""
        return self.values.get(key) is not None

    def integer(self, key: str, default: int | None = None, *, least: int = 0, most: int = MOST_INTEGER) -> int:
        """A whole number of `least` to `most`; true and false are none."""
        value = self._get(key, default)
        if not _is_integer(value) or not least <= value <= most:
            self.refuse(key, _whole_number(least, most))
        return value

    def number(
        self,
        key: str,
        default: float | None = None,
        *,
        above: float | None = None,
        least: float | None = None,
        most: float | None = None,
    ) -> float:
        """A finite number, larger than `above`, and of `least` to `most`."""
        value = self._get(key, default)
        low, high = -math.inf if least is None else least, math.inf if most is None else most
        below = above is not None and _is_number(value) and value <= above
        if not _is_number(value) or below or not low <= value <= high:
            self.refuse(key, _number(above, least, most))
        return float(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        """True or false."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            self.refuse(key, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A text that UTF-8 can hold."""
        value = self._get(key, default)
        if not isinstance(value, str) or not is_unicode(value):
            self.refuse(key, "a text")
        return value

    def choice(self, key: str, accepted: Sequence[object], default: object = None) -> Any:
        """One of `accepted`, which may hold None for null."""
        value = self.values.get(key, default)
        if not any(value == each and type(value) is type(each) for each in accepted):
            self.refuse(key, " or ".join(map(shown, accepted)), default)
        return value

    def object(self, key: str, default: Mapping[str, Any] | None = None) -> Fields:
        """An object's members."""
        value = self._get(key, default)
        if not isinstance(value, Mapping):
            self.refuse(key, "an object")
        return Fields(value, self.where, f"{self.path}{key}.")

    def sequence(self, key: str, default: Sequence[Any] | None = None) -> list[Any]:
        """A list."""
        value = self._get(key, default)
        if not isinstance(value, list | tuple):
            self.refuse(key, "a list")
        return list(value)

    def refuse(self, key: str, expected: str, default: object = None) -> NoReturn:
        """Raise the error that the value of `key` is not what was `expected`."""
        found = shown(self.values[key]) if key in self.values else "missing" if default is None else shown(default)
        raise UserError(f"{self.where}: {self.path}{key} is {found}, expected {expected}")

    def _get(self, key: str, default: object) -> Any:
        return self.values.get(key, default)


def read_json(path: Path, expected: str = "JSON", *, strict: bool = False) -> Any:
    """The value in the UTF-8 file `path`; arguments and errors as of `parse_json`.

    Raises:
        UserError: unreadable, too.
    """
    return parse_json(read_utf8(path, expected), str(path), expected, strict=strict)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in the regular file `path`.

    Raises:
        UserError: unreadable, or no JSON object.
    """
    is_there(path)
    return parse_object(read_utf8(path, "a JSON object"), str(path))


def read_utf8(path: Path, expected: str) -> str:
    """The text of the file `path`; `expected` says what it should hold.

    Raises:
        UserError: unreadable, or not UTF-8 without a byte order mark.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a path with a NUL.
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"{path}: cannot be read ({reason}); expected a UTF-8 file with {expected}") from error
    if text.startswith(_BYTE_ORDER_MARK):
        raise UserError(f"{path}: begins with a byte order mark; save it as UTF-8 without one")
    return text


def is_there(path: Path) -> bool:
    """Is there a regular file `path`?

    Raises:
        UserError: there is something else, such as a folder, a pipe, or a link to nothing.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        if path.is_symlink():
            raise UserError(f"{path}: is a link to nothing; expected a file") from None
        return False
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: is {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}; expected a file")
    return True


def parse_object(text: str, where: str) -> dict[str, Any]:
    """The JSON object that `text` is; `where` names it in errors.

    Raises:
        UserError: it is none.
    """
    value = parse_json(text, where, "a JSON object")
    if not isinstance(value, dict):
        raise UserError(f"{where}: holds {shown(value)}, expected a JSON object")
    return value


def parse_json(text: str, where: str, expected: str = "JSON", *, strict: bool = False) -> Any:
    """The JSON value that `text` is; `where` names it in errors.

    transformers writes and reads NaN and infinity, which JSON does not know, and takes escapes of half characters.

    Args:
        text: no key may stand in an object twice.
        where: names the file, and the line if there are several.
        expected: what should be there.
        strict: refuse NaN, infinity and halves of characters as well, such as in what a model shall read.

    Raises:
        UserError: it is none, or is nested too deeply.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant if strict else None)
    except RecursionError as error:
        raise UserError(f"{where}: is nested too deeply to be read; expected {expected}") from error
    except ValueError as error:  # No JSON, a repeated key, or a number of thousands of digits.
        found = "is empty" if not text.strip() else f"is not readable as JSON ({error})"
        raise UserError(f"{where}: {found}; expected {expected}") from error
    if strict and not is_unicode(json.dumps(value, ensure_ascii=False)):
        raise UserError(f"{where}: holds half of a character (a lone surrogate); expected whole ones")
    return value


def shown(value: object) -> str:
    """A value for an error: in one line, and not long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    text = repr(value) if not isinstance(value, int) or value.bit_length() < 1000 else "a very large number"
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def is_unicode(text: str) -> bool:
    """Can UTF-8 hold it, that is, has it no lone surrogates?"""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{shown(key)} stands there twice")
        found[key] = value
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    """A float can hold it, finite."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _whole_number(least: int, most: int) -> str:
    if most < MOST_INTEGER:
        return f"a whole number of {least} to {most}"
    return {0: "a whole number, 0 or more", 1: "a positive whole number"}.get(
        least, f"a whole number above {least - 1}"
    )


def _number(above: float | None, least: float | None, most: float | None) -> str:
    low = f"above {above:g}" if above is not None else f"of at least {least:g}" if least is not None else ""
    high = f"at most {most:g}" if most is not None else ""
    return f"a number {' and '.join(filter(None, (low, high)))}".strip()
