"""Text to tokens and back, by a bundle's tokenizer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

from ..errors import UserError
from ..native_output import LiteRtOutput, quiet_litert

# Gemma 4's tokenizer.json takes 32 MB.
_MOST_BYTES = 256 << 20


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
    """A `tokenizer.json`; `where` names it in errors. The library panics on some, such as on a pattern that backtracks
    without end."""

    def __init__(self, content: bytes, where: str = "tokenizer.json") -> None:
        import tokenizers

        self._where = where
        with quiet_litert() as output, _failures_named(where, "be read", output):
            self._tokenizer = tokenizers.Tokenizer.from_buffer(content)

    def encode(self, text: str) -> list[int]:
        with quiet_litert() as output, _failures_named(self._where, "encode a text", output):
            return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        with _failures_named(self._where, "decode tokens"):
            return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    @property
    def last_token(self) -> int:
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)


class SentencePieceTokenizer:
    """A SentencePiece `tokenizer.model`; `where` names it in errors."""

    def __init__(self, content: bytes, where: str = "tokenizer.model") -> None:
        import sentencepiece

        self._where = where
        self._tokenizer = sentencepiece.SentencePieceProcessor(model_proto=content)
        if not self._tokenizer.get_piece_size():
            raise ValueError("it has no pieces")

    def encode(self, text: str) -> list[int]:
        with _failures_named(self._where, "encode a text"):
            return self._tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        with _failures_named(self._where, "decode tokens"):
            return self._tokenizer.decode(list(ids))

    @property
    def last_token(self) -> int:
        return self._tokenizer.get_piece_size() - 1


def read_tokenizer(kind: str, content: bytes, where: str) -> Tokenizer:
    """The tokenizer of a bundle; `kind` is `json` or `model`, `where` names it in errors.

    Raises:
        UserError: it cannot be read, or is too large.
    """
    if len(content) > _MOST_BYTES:
        raise UserError(f"{where}: the tokenizer has {len(content):,} bytes, expected at most {_MOST_BYTES:,}")
    try:
        return HuggingFaceTokenizer(content, where) if kind == "json" else SentencePieceTokenizer(content, where)
    except UserError:
        raise
    except Exception as error:  # Both libraries raise bare exceptions of several kinds.
        raise UserError(f"{where}: the tokenizer cannot be read ({error}); pack the bundle again") from error


@contextlib.contextmanager
def _failures_named(where: str, action: str, output: LiteRtOutput | None = None) -> Iterator[None]:
    """Both libraries raise bare exceptions of several kinds, and tokenizers, where Rust panics, one that is no
    `Exception`; what it writes to standard error then is `output`."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if output is not None:
            output.discard()
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{where}: the tokenizer cannot {action} ({reason[:300]}); pack the bundle again") from error
