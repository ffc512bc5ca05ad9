"""A Hugging Face checkpoint, by hub id or folder: its configuration and its tensors, read lazily one by one.

Only safetensors are read: never pickle, never code that a checkpoint brings along.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from ...runtime.errors import UserError
from ...runtime.fields import Fields, is_there, read_object
from ...runtime.parity.weights.codes import Codes
from .forms import INDEX, SINGLE, lone_shards, missing_shards, unmerged_peft, what_it_is
from .hub import PinnedFiles, resolve
from .weights import EMBEDDING, HEAD, Weight

_FLOAT_DTYPES = frozenset({"BF16", "F16", "F32"})
_INTEGER_DTYPES = frozenset({"I64", "I32"})
# How numpy reads what safetensors calls each of them; it has no bfloat16.
_NUMPY_DTYPES = {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "I64": "<i8", "I32": "<i4", "U8": "u1", "I8": "i1"}
_TEXT_FILES = (
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "generation_config.json"),
    *("chat_template.jinja", "chat_template.json"),
)


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies, and how, from its file's header: from byte `begin` of the file on."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int


class Checkpoint:
    """One checkpoint folder.

    Attributes:
        source: what the person gave.
        folder: where the files are.
        config: contents of `config.json`.
        packed: whether large weights are codes.
    """

    packed = False

    def __init__(self, source: str) -> None:
        """Read the configuration and the headers of all weight files; no tensor yet.

        Raises:
            UserError: a file is missing, truncated or corrupt, or the index points outside the folder.
        """
        self.source = source
        self.folder = resolve(source)
        self._pinned = PinnedFiles(self.folder)
        hint = what_it_is(self.folder) if not is_there(self.path("config.json")) else None
        self.config = self.read_json("config.json", hint or "the folder must hold a Hugging Face checkpoint")
        self._placed: dict[str, str] = {}
        self._hashes: dict[str, str] | None = None
        self._files = self._weight_files()
        self._pinned.pin(self._files)
        self._entries = self._read_headers()
        self._check_index()
        if wrapped := unmerged_peft(self._entries):
            raise UserError(
                f"{self._entries[wrapped].file}: {wrapped} belongs to a PEFT model that was not merged:"
                " save what merge_and_unload() returns, or give the base model and the adapter with --adapter"
            )

    def path(self, name: str) -> Path:
        """Path of a file of this checkpoint, whether or not it exists."""
        return self.folder / name

    def read_json(self, name: str, hint: str) -> dict[str, Any]:
        """Contents of a JSON object file.

        Raises:
            UserError: missing, unreadable or no JSON object; `hint` says what to do when it is missing.
        """
        path = self.path(name)
        if not is_there(path):
            raise UserError(f"{path}: no such file; {hint}")
        return read_object(path)

    def fields(self, name: str) -> Fields:
        """Members of a JSON object file that a checkpoint need not have; none where there is no such file.

        Raises:
            UserError: unreadable or no JSON object.
        """
        path = self.path(name)
        return Fields(read_object(path) if is_there(path) else {}, str(path))

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of the configuration and of every weight file, by name.

        Raises:
            UserError: one of them was changed after it was opened.
        """
        return self.read_hashes()

    def read_hashes(self, on_bytes: Callable[[int], None] = lambda count: None) -> dict[str, str]:
        """As `hashes`; the first time every byte is read, and `on_bytes` told of some at a time."""
        if self._hashes is None:
            self._hashes = self._pinned.hashes([self.path("config.json"), *self._files], on_bytes)
        return self._hashes

    @property
    def bytes(self) -> int:
        """Bytes of all weight files, as they were when this object was made."""
        return sum(self._pinned.size(file) for file in self._files)

    @property
    def text_hashes(self) -> dict[str, str]:
        """SHA-256 of the files that the text comes from (tokenizer, chat template, generation settings), by name."""
        return self._pinned.hashes(path for path in map(self.path, _TEXT_FILES) if path.is_file())

    def check_unchanged(self) -> None:
        """Raises:
        UserError: a file that an export may read is not the one any more that it was when this object was made.
        """
        self._pinned.check()

    @cached_property
    def prefix(self) -> str:
        """What stands before `layers.0...` in tensor names.

        `model.language_model.` in the multimodal form, `model.` in the text-only form and in drafters.
        """
        marker = "layers.0.input_layernorm.weight"
        found = sorted(name.removesuffix(marker) for name in self._entries if name.endswith(marker))
        decoders = [prefix for prefix in found if "tower" not in prefix]
        if not decoders:
            raise UserError(f"{self.folder}: no tensor named *{marker}; expected the weights of a Gemma 4 decoder")
        return min(decoders, key=len)

    @property
    def declares_tied_head(self) -> bool:
        """`tie_word_embeddings` of the top level; as in transformers, that of `text_config` counts for nothing."""
        return Fields(self.config, str(self.path("config.json"))).flag("tie_word_embeddings", True)

    def has(self, name: str) -> bool:
        """Is there a tensor of this name (without the prefix) in the files?"""
        return self._stored_name(name) is not None

    def is_computed(self, name: str) -> bool:
        """Whether a tensor's values are made on reading, not stored."""
        return False

    def trained_bits(self, name: str) -> int | None:
        """Bits of a tensor's codes, if it holds those and not values."""
        return None

    def codes(self, name: str, rows: Sequence[int]) -> Codes:
        """The given rows of a tensor that holds codes."""
        raise ValueError(f"{name} holds values")

    def static_scales(self, weights: Iterable[Weight]) -> dict[str, dict[str, float]]:
        """Scales of activations and caches that belong to the codes of `weights`, by module and kind."""
        return {}

    def check(self, weights: Iterable[Weight]) -> None:
        """Check that every weight is there with its shape and a dtype that can be read.

        Raises:
            UserError: naming the first tensor that is missing or wrong.
        """
        for weight in weights:
            if weight.source is not None:
                self._check_form(weight, *self._find(weight.source))

    def read(self, name: str) -> torch.Tensor:
        """One tensor by its name without the prefix: float32, or as stored where it holds integers."""
        _, entry = self._find(name)
        return self.read_rows(name, 0, entry.shape[0])

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows `start`..`stop - 1` of a tensor, as `read` gives it; nothing else of it is loaded."""
        return self._take(name, range(start, stop))

    def read_rows_at(self, name: str, rows: Sequence[int]) -> torch.Tensor:
        """The given rows of a tensor, stacked, as `read` gives it; nothing else of it is loaded."""
        return self._take(name, rows)

    def _take(self, name: str, rows: Sequence[int]) -> torch.Tensor:
        return self._rows_of(*self._find(name), rows)

    def _rows_of(self, full: str, entry: Entry, rows: Sequence[int]) -> torch.Tensor:
        """Rows of the tensor stored as `full`: float32, or as stored where it holds integers. One without axes is a
        row of its own."""
        self._pinned.check_file(entry.file)
        if entry.dtype not in _NUMPY_DTYPES:
            raise UserError(
                f"{entry.file}: {full} is stored as {entry.dtype}, expected one of {', '.join(_NUMPY_DTYPES)}"
            )
        try:
            values = _read_rows(entry, rows)
        except OSError as error:
            raise UserError(f"{entry.file}: {full} cannot be read ({error.strerror or error})") from error
        return torch.from_numpy(_bfloat16_as_float(values) if entry.dtype == "BF16" else _float(values))

    def left_out(self, weights: Iterable[Weight]) -> dict[str, int]:
        """Number of tensors that no weight is made from, by what they belong to (`vision_tower`, `layers.24`, ...)."""
        used = self._used_names(weights)
        groups: dict[str, int] = {}
        for name in self._entries:
            if name not in used:
                group = name.removeprefix(self.prefix).removeprefix("model.")
                parts = group.split(".")
                group = ".".join(parts[:2]) if parts[0] == "layers" else parts[0]
                groups[group] = groups.get(group, 0) + 1
        return groups

    def _used_names(self, weights: Iterable[Weight]) -> set[str]:
        return {self._find(weight.source)[0] for weight in weights if weight.source}

    def _check_form(self, weight: Weight, name: str, entry: Entry) -> None:
        if entry.shape != weight.source_shape:
            found, expected = list(entry.shape), list(weight.source_shape)
            if "embed_tokens" in name and found[1:] == expected[1:]:
                raise UserError(
                    f"{entry.file}: {name} has {found[0]} rows, but config.json says {expected[0]}: tokens were"
                    " added or removed, and the configuration was not saved with them;"
                    " resize_token_embeddings() changes both"
                )
            raise UserError(f"{entry.file}: {name} has shape {found}, expected {expected} from config.json")
        integer = entry.dtype in _INTEGER_DTYPES
        if entry.dtype not in _FLOAT_DTYPES | _INTEGER_DTYPES or integer != (weight.role.value == "index"):
            kind = "I32 or I64" if weight.role.value == "index" else "BF16, F16 or F32"
            raise UserError(f"{entry.file}: {name} is stored as {entry.dtype}, expected {kind}")

    def _find(self, name: str) -> tuple[str, Entry]:
        found = self._stored_name(name)
        if found is None and name == EMBEDDING and self.declares_tied_head:
            found = self._stored_name(HEAD)  # transformers ties either to the one that is there.
        if found is None:
            raise UserError(f"{self.folder}: tensor {self.prefix}{name} is missing; is this checkpoint complete?")
        return found, self._entries[found]

    def _stored_name(self, name: str) -> str | None:
        found = [candidate for candidate in (self.prefix + name, name) if candidate in self._entries]
        if not found and name == HEAD:  # Outside the decoder, under whatever wrapped the model.
            found = [stored for stored in self._entries if stored.endswith(f".{HEAD}")]
        if len(set(found)) > 1:
            raise UserError(f"{self.folder}: both {found[0]} and {found[1]} are there; expected one {name}")
        return found[0] if found else None

    def _weight_files(self) -> list[Path]:
        single, index = self.path(SINGLE), self.path(INDEX)
        if is_there(single):
            return [single]
        if not is_there(index):
            return self._shards_without_index()
        places = self.fields(index.name).object("weight_map")
        if not places.values:
            raise UserError(f"{index}: weight_map is empty; expected the file of every tensor")
        self._placed = {name: places.text(name) for name in places.values}
        root, files = self.folder.resolve(), []
        for shard in sorted(set(self._placed.values())):
            if not shard.isprintable():
                raise UserError(f"{index}: weight_map points to {shard!r}, which is no file's name")
            # The hub's cache holds links to a folder of blobs, so compare names, not what links point to.
            if os.path.isabs(shard) or not Path(os.path.normpath(root / shard)).is_relative_to(root):
                raise UserError(f"{index}: weight_map points to {shard}, outside the checkpoint's folder")
            files.append(self.folder / shard)
        missing = [file for file in files if not file.is_file()]
        if missing:
            others = f", as do {len(missing) - 1} others" if len(missing) > 1 else ""
            raise UserError(f"{missing[0]}: no such file, though {index.name} names it{others}; copy it here as well")
        return files

    def _shards_without_index(self) -> list[Path]:
        """Numbered shards say themselves whether they are all there."""
        shards = lone_shards(self.folder)
        if not shards:
            hint = f"; {found}" if (found := what_it_is(self.folder)) else ""
            raise UserError(f"{self.folder}: no {SINGLE} and no {INDEX}{hint}")
        if missing := missing_shards(shards):
            raise UserError(
                f"{self.folder / missing[0]}: no such file, and no {INDEX};"
                f" {len(missing)} of {len(missing) + len(shards)} shards are missing: copy them here as well"
            )
        return shards

    def _read_headers(self) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        for path in self._files:
            try:
                with safe_open(path, framework="pt"):  # Which checks that the header is true of the file.
                    for name, entry in _entries_of(path):
                        if name in entries:
                            raise UserError(
                                f"{path}: holds {name}, as does {entries[name].file.name}: shards of two saves are"
                                " mixed here; expected each tensor once"
                            )
                        entries[name] = entry
            except (OSError, SafetensorError) as error:
                raise UserError(f"{path}: not a whole safetensors file ({error}); download it again") from error
        return entries

    def _check_index(self) -> None:
        """Every tensor must be in the file that the index names; transformers takes it from whichever file has it."""
        for name, shard in self._placed.items():
            entry = self._entries.get(name)
            if entry is None:
                raise UserError(
                    f"{self.path(INDEX)}: names {shard} for {name}, which no file here holds: index and shards are of"
                    " two saves; copy all files of one"
                )
            if entry.file != self.folder / shard:
                raise UserError(
                    f"{self.path(INDEX)}: names {shard} for {name}, which is in {entry.file.name}: index and shards"
                    " are of two saves; copy all files of one"
                )


def _entries_of(path: Path) -> Iterator[tuple[str, Entry]]:
    """Tensors of a sound file by name: a header's length in eight bytes, that JSON header, data.

    https://github.com/huggingface/safetensors#format
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    for name, said in sorted(header.items()):
        if name != "__metadata__":
            yield name, Entry(path, said["dtype"], tuple(said["shape"]), 8 + size + said["data_offsets"][0])


def _read_rows(entry: Entry, rows: Sequence[int]) -> np.ndarray:
    """Rows of a tensor as they are stored. They are read, not mapped: a disk's error then is an error, no signal.

    Raises:
        OSError: they cannot be read.
    """
    values = np.empty((len(rows), *entry.shape[1:]), _NUMPY_DTYPES[entry.dtype])
    row_bytes, target = math.prod(entry.shape[1:]) * values.itemsize, values.reshape(-1).view(np.uint8).data
    with entry.file.open("rb", buffering=0) as file:
        first = 0
        for stop in _ends_of_runs(rows):
            file.seek(entry.begin + rows[first] * row_bytes)
            left = target[first * row_bytes : stop * row_bytes]
            while left:
                count = file.readinto(left)
                if not count:
                    raise OSError("the file ends before it")
                left = left[count:]
            first = stop
    return values


def _ends_of_runs(rows: Sequence[int]) -> Iterator[int]:
    """Places in `rows` behind each run of rows that follow one another."""
    if isinstance(rows, range) and rows.step == 1:
        yield len(rows)
        return
    yield from (place for place in range(1, len(rows)) if rows[place] != rows[place - 1] + 1)
    yield len(rows)


def _bfloat16_as_float(values: np.ndarray) -> np.ndarray:
    """Codes of bfloat16 as float32, which begins with the same sixteen bits."""
    return np.left_shift(values, 16, dtype=np.uint32).view(np.float32)


def _float(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32, copy=False) if values.dtype.kind == "f" else values


def describe_left_out(groups: Mapping[str, int]) -> list[str]:
    """One line for each kind of tensor that an export leaves out, with the reason."""
    lines = []
    shared = {name: count for name, count in groups.items() if name.startswith("layers.")}
    if shared:
        lines.append(f"{sum(shared.values())} unused k/v tensors of {len(shared)} KV-sharing layers")
    lines += [f"{count} tensors of {name}" for name, count in sorted(groups.items()) if name not in shared]
    return lines
