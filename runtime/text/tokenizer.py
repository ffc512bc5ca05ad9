"""Text to tokens and back, by a bundle's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..errors import UserError


class Tokenizer(Protocol):
    """What generation needs of a tokenizer."""

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; special tokens written out in it become their ids, and none is added."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special tokens included."""
        ...

    @property
    def last_token(self) -> int:
        """The highest id that a text can become."""
        ...


class HuggingFaceTokenizer:
    """A `tokenizer.json`."""

    def __init__(self, content: bytes) -> None:
        import tokenizers

        self._tokenizer = tokenizers.Tokenizer.from_buffer(content)

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    @property
    def last_token(self) -> int:
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)


class SentencePieceTokenizer:
    """A SentencePiece `tokenizer.model`."""

    def __init__(self, content: bytes) -> None:
        import sentencepiece

        self._tokenizer = sentencepiece.SentencePieceProcessor(model_proto=content)

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids))

    @property
    def last_token(self) -> int:
        return self._tokenizer.get_piece_size() - 1


def read_tokenizer(kind: str, content: bytes, where: str) -> Tokenizer:
    """The tokenizer of a bundle; `kind` is `json` or `model`, `where` names it in errors.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return HuggingFaceTokenizer(content) if kind == "json" else SentencePieceTokenizer(content)
    except Exception as error:  # Both libraries raise bare exceptions of several kinds.
        raise UserError(f"{where}: the tokenizer cannot be read ({error}); pack the bundle again") from error
