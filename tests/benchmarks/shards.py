"""Checkpoints written tensor by tensor in blocks, so that one larger than memory can be made.

The format is safetensors' (https://github.com/huggingface/safetensors#format): the header's length, a JSON header,
then the data of each tensor. `safetensors.torch.save_file` would hold a whole file of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

_DTYPES = {torch.bfloat16: "BF16", torch.float32: "F32", torch.int32: "I32", torch.int64: "I64"}
_BLOCK_BYTES = 64 << 20


@dataclass(frozen=True)
class Axis:
    """An axis of `size` entries; `places` `[n]` says where the n entries of the small tensor go."""

    size: int
    places: torch.Tensor

    @classmethod
    def padded(cls, small: int, size: int) -> Axis:
        """The small entries first, then padding."""
        return cls(size, torch.arange(small))


@dataclass(frozen=True)
class WideTensor:
    """A small tensor whose entries lie scattered in a wide one, zero elsewhere.

    With a `filler` the rows (axis 0) that are not placed are copies of that small row instead.
    """

    name: str
    small: torch.Tensor
    axes: tuple[Axis, ...]
    filler: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(axis.size for axis in self.axes)

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.small.dtype.itemsize

    def blocks(self) -> Iterator[torch.Tensor]:
        """The wide tensor in blocks of rows."""
        if self.filler is None:
            yield _scatter(self.small, self.axes)
            return
        rows = _scatter(self.small, (Axis.padded(len(self.small), len(self.small)), *self.axes[1:]))
        yield rows
        step = max(1, _BLOCK_BYTES // (rows[0].numel() * rows.element_size()))
        missing = self.shape[0] - len(rows)
        copies = rows[self.filler].expand(min(step, missing), *rows.shape[1:]).contiguous()
        for start in range(0, missing, step):
            yield copies[: missing - start]


def _scatter(small: torch.Tensor, axes: tuple[Axis, ...]) -> torch.Tensor:
    wide = torch.zeros([axis.size for axis in axes], dtype=small.dtype)
    wide[torch.meshgrid(*(axis.places for axis in axes), indexing="ij")] = small
    return wide


def write_checkpoint(folder: Path, tensors: Iterable[WideTensor], shard_bytes: int = 2 << 30) -> None:
    """Write `model-0000x-of-0000y.safetensors` of about `shard_bytes` (a larger tensor has its own) and their index."""
    shards: list[list[WideTensor]] = [[]]
    for tensor in tensors:
        if shards[-1] and sum(member.bytes for member in shards[-1]) + tensor.bytes > shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    names: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write_file(folder / name, shard)
        names.update({tensor.name: name for tensor in shard})
    total = sum(tensor.bytes for shard in shards for tensor in shard)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(names.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def _write_file(path: Path, tensors: list[WideTensor]) -> None:
    # Widest elements first, as safetensors does, so that each tensor is aligned to its elements.
    tensors = sorted(tensors, key=lambda tensor: -tensor.small.dtype.itemsize)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.bytes
        header[tensor.name] = {
            "dtype": _DTYPES[tensor.small.dtype],
            "shape": tensor.shape,
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            for block in tensor.blocks():
                file.write(block.contiguous().view(torch.uint8).numpy().data)
