"""Where two protobuf messages, or two JSON values, differ: the path of every difference."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

_SHOWN = 60


def message_differences(
    found: Message, expected: Message, without: Collection[str] = (), path: str = ""
) -> Iterator[str]:
    """One line for each field that differs, named by its path; `without` are fields of the top level to leave out.

    Floats are compared as stored, in float32; NaN differs from everything.
    """
    fields = {field.name: field for message in (found, expected) for field, _ in message.ListFields()}
    for name in sorted(fields.keys() - set(without), key=lambda name: fields[name].number):
        field, where = fields[name], f"{path}{name}"
        one, other = getattr(found, name), getattr(expected, name)
        if field.is_repeated:
            if len(one) != len(other):
                yield f"{where} has {len(one)} entries, expected {len(other)}"
            for index, pair in enumerate(zip(one, other, strict=False)):
                yield from _value_differences(field, *pair, f"{where}[{index}]")
        elif field.has_presence and found.HasField(name) != expected.HasField(name):
            yield f"{where} is missing" if expected.HasField(name) else f"{where} is set, expected none"
        else:
            yield from _value_differences(field, one, other, where)


def _value_differences(field: Any, found: Any, expected: Any, where: str) -> Iterator[str]:
    if field.message_type is not None:
        yield from message_differences(found, expected, path=f"{where}.")
    elif found != expected:
        names = field.enum_type.values_by_number if field.enum_type else {}
        one, other = (names[value].name if value in names else repr(value) for value in (found, expected))
        yield f"{where} is {_short(one)}, expected {_short(other)}"


def unknown_fields(message: Message, path: str) -> Iterator[str]:
    """One line for each field that the message's definition does not have, which nothing can therefore compare."""
    for field in UnknownFieldSet(message):
        yield f"{path} has an unknown field, number {field.field_number}"
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                yield from unknown_fields(part, f"{path}.{field.name}")


def json_differences(found: Any, expected: Any, path: str = "") -> Iterator[str]:
    """One line for each value that differs, named by its path."""
    if isinstance(found, Mapping) and isinstance(expected, Mapping):
        for key in sorted({*found, *expected}, key=str):
            where = f"{path}.{key}" if path else str(key)
            if key not in found or key not in expected:
                yield f"{where} is {'missing' if key in expected else 'new'}"
            else:
                yield from json_differences(found[key], expected[key], where)
    elif isinstance(found, list) and isinstance(expected, list):
        if len(found) != len(expected):
            yield f"{path} has {len(found)} entries, expected {len(expected)}"
        for index, pair in enumerate(zip(found, expected, strict=False)):
            yield from json_differences(*pair, f"{path}[{index}]")
    elif type(found) is not type(expected) or found != expected:
        yield f"{path} is {_short(repr(found))}, expected {_short(repr(expected))}"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
