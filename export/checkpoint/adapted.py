"""A target with LoRA adapters merged into it, weight by weight, as the weights are read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch

from ...runtime.fields import is_there, read_object
from .adapter import Adapter
from .files import Checkpoint
from .read_config import read_target_config
from .weights import EMBEDDING, HEAD, decode_weights, embedder_weights, per_layer_embedder_weights

_TOKENIZER_FILES = ("tokenizer", "special_tokens_map")
_TEXT_FILES = (*_TOKENIZER_FILES, "chat_template", "generation_config")


class AdaptedCheckpoint(Checkpoint):
    """A target's checkpoint whose tensors are read as if each of `adapters`, one after the other, had been merged.

    Rows are changed in float32, block by block, so that no second copy of the model comes to be. What is read equals
    what PEFT's `merge_and_unload` makes of the base in float32; of a base in bfloat16 PEFT rounds every merged weight
    to bfloat16 again, which is not done here. A product of a block of rows may differ from that of all rows in the last
    bit.

    Where the base's head is tied, an adapter of the embedding alone leaves the head as it was, and one of the head
    leaves the embedding, as PEFT computes while it trains; `merge_and_unload` would change their common parameter.
    """

    def __init__(self, source: str, adapters: Sequence[str]) -> None:
        """Open the base and the adapters.

        Raises:
            UserError: one of them cannot be read, or an adapter does not fit the base.
        """
        super().__init__(source)
        self.adapters = [Adapter(adapter) for adapter in adapters]
        config = read_target_config(self.config, str(self.path("config.json")))
        listed = (*decode_weights(config), *embedder_weights(config), *per_layer_embedder_weights(config))
        shapes = {weight.source: weight.source_shape for weight in listed if weight.source}
        shapes[HEAD] = shapes[EMBEDDING]
        self._tied = not super().has(HEAD)
        for adapter in self.adapters:
            adapter.fit(shapes, config.own_kv_layers, tied=self._tied)

    def has(self, name: str) -> bool:
        """As of the base; and its head, if an adapter makes it differ from the embedding."""
        return super().has(name) or (name == HEAD and any(adapter.unties for adapter in self.adapters))

    def is_computed(self, name: str) -> bool:
        """Whether an adapter changes the tensor."""
        return any(name in adapter.changes for adapter in self.adapters)

    def path(self, name: str) -> Path:
        """Path of a file; what belongs to the text (tokenizer, chat template, generation settings) is that of the last
        adapter that brings it."""
        if name.startswith(_TEXT_FILES):
            for adapter in reversed(self.adapters):
                if _brings(adapter.folder, name):
                    return adapter.folder / name
        return super().path(name)

    @property
    def brings_text_files(self) -> str:
        """Names of the adapters whose folders hold a tokenizer."""
        return ", ".join(adapter.name for adapter in self.adapters if _has_tokenizer(adapter.folder))

    @cached_property
    def adapter_hashes(self) -> list[dict[str, object]]:
        """Name and file hashes of each adapter."""
        return [{"name": adapter.name, "sha256": adapter.hashes} for adapter in self.adapters]

    def check_unchanged(self) -> None:
        """Of the base and of every adapter."""
        super().check_unchanged()
        for adapter in self.adapters:
            adapter.check_unchanged()

    def _find(self, name: str):
        return super()._find(EMBEDDING if name == HEAD and self._tied else name)

    def _take(self, name: str, rows: Sequence[int]) -> torch.Tensor:
        values = super()._take(name, rows)
        for adapter in self.adapters:
            values = adapter.apply(name, values, rows)
        return values


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))


def _brings(folder: Path, name: str) -> bool:
    """Does the adapter's folder decide over the file `name`, be it by its absence?"""
    if (folder / name).is_file():
        return True
    if not name.startswith("chat_template"):
        return name.startswith(_TOKENIZER_FILES) and _has_tokenizer(folder)
    if any(folder.glob("chat_template.*")):
        return True
    config = folder / "tokenizer_config.json"  # Where older tokenizers keep their template.
    return is_there(config) and "chat_template" in read_object(config)
