"""Which tokenizer file a checkpoint means, and whether it fits the embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...runtime.errors import UserError
from ...runtime.text.tokenizer import Tokenizer, read_tokenizer
from ..checkpoint.files import Checkpoint

# transformers loads and saves tokenizer.json; a tokenizer.model beside it is often left over from the base model.
_FILES = ("tokenizer.json", "tokenizer.model")


def open_tokenizer(checkpoint: Checkpoint, vocabulary: int) -> tuple[Path, Tokenizer]:
    """The tokenizer's file, and the tokenizer.

    Raises:
        UserError: there is none, it cannot be read, or it has tokens for which the `vocabulary` rows of the embeddings
            have none.
    """
    path = next((path for path in map(checkpoint.path, _FILES) if path.is_file()), None)
    if path is None:
        raise UserError(f"{checkpoint.folder}: no {' and no '.join(_FILES)}; copy tokenizer.json from the base model")
    tokenizer = read_tokenizer(path.suffix.removeprefix("."), path.read_bytes(), str(path))
    if (last := tokenizer.last_token) >= vocabulary:
        raise UserError(
            f"{path}: has tokens up to {last} ({tokenizer.decode([last])!r}), but the embeddings have {vocabulary}"
            " rows: tokens were added without resizing, so the model cannot read them; use the tokenizer of the base"
            " model, or take the new tokens out"
        )
    return path, tokenizer


def special_texts(checkpoint: Checkpoint, tokenizer: Tokenizer, bos: int) -> dict[str, str]:
    """What transformers gives the chat template by name (`bos_token`, `eos_token`, ...), from tokenizer_config.json."""
    path = checkpoint.path("tokenizer_config.json")
    settings: dict[str, Any] = checkpoint.read_json(path.name, "") if path.is_file() else {}
    found = {"bos_token": tokenizer.decode([bos])}
    for name, value in settings.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            found[name] = text
    return found
