"""A part of a file as `bytes` that are mapped, not read: LiteRT's Python interface takes a model in no other form.

CPython keeps the content of a `bytes` object right behind its header. So the part of the file is mapped together with
the page before it, privately, and a header is written at the end of that page: into this process's copy of it alone.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterable
from pathlib import Path

_SAMPLE = 77  # Bytes of an object whose header is taken; no other field of it has this value.
_HEADER = bytes.__basicsize__ - 1  # The object's size counts the NUL behind its content.
_SIZE_AT = _HEADER - 2 * ctypes.sizeof(ctypes.c_ssize_t)  # `ob_size`, before `ob_shash`.


def mapped_bytes(path: Path, begin: int, end: int, edits: Iterable[tuple[int, bytes]] = ()) -> bytes | None:
    """Bytes `begin`..`end - 1` of the file, of which `begin` is at least a page; mapped as long as the process lasts.

    `edits` are bytes that stand in it otherwise than in the file, from their places behind `begin` on.

    None where they cannot be mapped: on another Python, on another layout of `bytes`, or where the system refuses.
    """
    header = _header(end - begin)
    first = (begin - _HEADER) // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    if header is None or first < 0:
        return None
    with path.open("rb") as file:
        try:
            content = mmap.mmap(file.fileno(), end - first, access=mmap.ACCESS_COPY, offset=first)
        except OSError:  # A private mapping may count as memory that there is not enough of.
            return None
    at = begin - first - _HEADER
    content[at : at + _HEADER] = header
    for place, new in edits:
        content[at + _HEADER + place : at + _HEADER + place + len(new)] = new
    address = ctypes.addressof(ctypes.c_char.from_buffer(content, at))
    # Neither the mapping nor the object in it may be freed by Python: LiteRT decides when it has read the last byte.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(content))
    found = ctypes.cast(address, ctypes.py_object).value
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(found))
    return found


def _header(size: int) -> bytes | None:
    """The header of a `bytes` object of `size` bytes; None where CPython's layout is not the one known here."""
    word = ctypes.sizeof(ctypes.c_ssize_t)
    sample = bytes(_SAMPLE)
    if sys.implementation.name != "cpython" or sys.getsizeof(sample) != _HEADER + 1 + _SAMPLE:
        return None
    header = bytearray(ctypes.string_at(id(sample), _HEADER))
    if int.from_bytes(header[_SIZE_AT : _SIZE_AT + word], sys.byteorder) != _SAMPLE:
        return None
    header[_SIZE_AT : _SIZE_AT + word] = size.to_bytes(word, sys.byteorder)
    header[_SIZE_AT + word :] = (-1).to_bytes(word, sys.byteorder, signed=True)  # No hash yet.
    return bytes(header)
