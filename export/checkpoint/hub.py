"""Where a checkpoint is: a folder, or a repository of the Hugging Face hub, downloaded."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from ...runtime.errors import UserError
from .forms import gguf_advice

# What a bundle needs of a hub repository; no weights but safetensors, no Python.
_HUB_PATTERNS = ["*.safetensors", "*.safetensors.index.json", "config.json", "adapter_config.json", "tokenizer*"]
_HUB_PATTERNS += ["chat_template*", "special_tokens_map.json", "generation_config.json"]
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def resolve(source: str) -> Path:
    """Folder of a checkpoint: `source` itself if it is one, else the hub repository of that name, downloaded.

    Raises:
        UserError: neither a folder nor a repository that can be had.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        advice = gguf_advice(folder.name) if folder.suffix.lower() == ".gguf" else f"give its folder, {folder.parent}"
        raise UserError(f"{source}: is a file, expected a checkpoint's folder; {advice}")
    if folder.exists() or source.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(source):
        raise UserError(
            f"{source}: no such folder; expected a checkpoint folder or a hub id such as google/gemma-4-E2B-it"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=_HUB_PATTERNS))
    except Exception as error:  # Gated, missing, offline, interrupted: the hub client has an error class for each.
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{source}: no such folder, and the hub says: {reason[0]}") from error


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
