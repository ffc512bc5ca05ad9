"""Which tokenizer file a checkpoint means, and whether it fits the embeddings."""

from __future__ import annotations

from pathlib import Path

from ...runtime.errors import UserError
from ...runtime.fields import is_there, shown
from ...runtime.text.tokenizer import Tokenizer, read_tokenizer
from ..checkpoint.files import Checkpoint

# transformers loads and saves tokenizer.json; a tokenizer.model beside it is often left over from the base model.
# A word that every tokenizer must bring back, among characters that one without byte tokens may lose.
_WORD = "hello"
_PROBE = f"{_WORD} 1\n\tÄ中🙂\x00"
_FILES = ("tokenizer.json", "tokenizer.model")
_KNOWN_TOKENS = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))


def open_tokenizer(checkpoint: Checkpoint, vocabulary: int) -> tuple[Path, Tokenizer]:
    """The tokenizer's file, and the tokenizer.

    Raises:
        UserError: there is none, it cannot be read, or it has tokens for which the `vocabulary` rows of the embeddings
            have none.
    """
    path = next((path for path in map(checkpoint.path, _FILES) if is_there(path)), None)
    if path is None:
        raise UserError(f"{checkpoint.folder}: no {' and no '.join(_FILES)}; copy tokenizer.json from the base model")
    tokenizer = read_tokenizer(path.suffix.removeprefix("."), path.read_bytes(), str(path))
    _try(tokenizer, str(path))
    if (last := tokenizer.last_token) >= vocabulary:
        raise UserError(
            f"{path}: has tokens up to {last} ({tokenizer.decode([last])!r}), but the embeddings have {vocabulary}"
            " rows: tokens were added without resizing, so the model cannot read them; use the tokenizer of the base"
            " model, or take the new tokens out"
        )
    return path, tokenizer


def _try(tokenizer: Tokenizer, where: str) -> None:
    """Use it as the runtime will: a file that can be read may hold a vocabulary or steps that fail on a text."""
    try:
        ids = tokenizer.encode(_PROBE)
        text = tokenizer.decode(ids)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # The library, in Rust, panics with what is no Exception.
        raise UserError(
            f"{where}: the tokenizer fails on a text ({error}); copy tokenizer.json from the base model"
        ) from error
    if _WORD not in text:
        raise UserError(
            f"{where}: the tokenizer makes {shown(text)} of {_PROBE!r}; copy tokenizer.json from the base model"
        )


def special_texts(checkpoint: Checkpoint, tokenizer: Tokenizer, bos: int) -> dict[str, str]:
    """What transformers gives the chat template by name (`bos_token`, `eos_token`, ...), from tokenizer_config.json."""
    settings = checkpoint.fields("tokenizer_config.json")
    found = {"bos_token": tokenizer.decode([bos])}
    for name, value in settings.values.items():
        described = isinstance(value, dict) and "content" in value
        # Beside tokens of any name there are flags such as `add_bos_token`.
        if (
            name.endswith("_token")
            and (name in _KNOWN_TOKENS or described or isinstance(value, str))
            and value is not None
        ):
            found[name] = settings.object(name).text("content") if isinstance(value, dict) else settings.text(name)
    return found
