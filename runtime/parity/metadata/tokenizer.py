"""A bundle's tokenizer against the checkpoint's file, and against transformers' tokenizer of the checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from ..report.report import Stage
from .fields import json_differences, message_differences

_TEXTS = (
    "Hello, world! It's 3.14 o'clock; don't panic (yet).",
    "Le cœur déçu mais l'âme plutôt naïve, Louÿs rêva de crapaüter.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
    "نص حكيم له سر قاطع وذو شأن عظيم",
    "דג סקרן שט בים מאוכזב ולפתע מצא חברה",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण",
    "กว่าบรรดาฝูงสัตว์เดรัจฉาน",
    "いろはにほへと ちりぬるを 漢字とカタカナ。",
    "我能吞下玻璃而不伤身体。",
    "키스의 고유조건은 입술끼리 만나야 하고",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇺🇳 😀😀 ☕️ 🫠",
    "e\u0301 = é? n\u0303 = ñ; ﬁ ﬂ Ⅳ ½ Å Å",
    "",
    " ",
    "  two  and   three    four spaces ",
    "\n",
    "\n\n\n\t\t \r\n end\n",
    "\u00a0no\u2003break\u200b\u200d\ufeff\u2028spaces\u3000",
    "▁▁already▁escaped",
    "def f(x: int) -> str:\n    return f'{x!r:>10}'  # TODO\n\n\nclass A:\n\tpass\n",
    "#include <vector>\nint main() { return a[i]->b << 2 && !c; }",
    "SELECT * FROM t WHERE a<>'b' -- 10 %\n{\"k\": [1, 2.5e-3, null]}",
    "0123456789 1,000,000.00 0xDEADBEEF 12:34:56",
    "<bos><eos><pad><unk> <|turn>user\nhi<turn|>\n<|turn>model\n<|channel>thought\nx<channel|>",
    '<|tool_call>call:f{a:<|"|>b<|"|>}<tool_call|><|tool_response>r<tool_response|> <|image><image|>',
    "<|turn >user< turn|> <|turn>|turn|> <0x41><0xFF> <unused0>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" * 4,
)
# With these every byte that UTF-8 can hold occurs in a character that few vocabularies have whole.
_RARE = (
    *map(chr, range(0x80)),
    *map(chr, range(0x80, 0x800, 0x40)),
    *map(chr, range(0x780, 0x7C0)),
    *(chr(first << 12 | 0xABF) for first in range(0x10) if first != 0xD),
    *map(chr, (0x1F9FF, 0x5FFFE, 0x9FFFE, 0xDFFFE, 0x10FFFE)),
)
_CHUNK = 32
# Of each kind of difference, that many are looked for.
_MOST = 20


@dataclass(frozen=True)
class TokenizerReference:
    """The checkpoint's tokenizer.

    Attributes:
        file: its `tokenizer.json` or `tokenizer.model`.
        pieces: transformers' `convert_ids_to_tokens` of all ids, ascending from 0.
        encode: token ids of a text in transformers, without added special tokens.
        decode: text of token ids in transformers, special tokens included.
    """

    file: Path
    pieces: Callable[[], Sequence[str | None]]
    encode: Callable[[str], Sequence[int]]
    decode: Callable[[Sequence[int]], str]


class _Vocabulary(Protocol):
    """A tokenizer of a bundle, by the library that LiteRT-LM uses for its kind.

    `control` are ids that stand for no text: such a tokenizer neither reads nor writes them. `lone_bytes` are ids of
    bytes, where the text of such that are no UTF-8 differs between the libraries.
    """

    size: int
    control: frozenset[int]
    lone_bytes: frozenset[int]

    def piece(self, token: int) -> str | None: ...
    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...


class _HuggingFace:
    def __init__(self, content: bytes) -> None:
        import tokenizers

        self._tokenizer = tokenizers.Tokenizer.from_buffer(content)
        self.size = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self.control = self.lone_bytes = frozenset()

    def piece(self, token: int) -> str | None:
        return self._tokenizer.id_to_token(token)

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)


class _SentencePiece:
    def __init__(self, content: bytes) -> None:
        import sentencepiece

        self._tokenizer: Any = sentencepiece.SentencePieceProcessor(model_proto=content)
        self.size = self._tokenizer.get_piece_size()
        special = (t for t in range(self.size) if self._tokenizer.is_control(t) or self._tokenizer.is_unknown(t))
        self.control = frozenset(special)
        self.lone_bytes = frozenset(token for token in range(self.size) if self._tokenizer.is_byte(token))

    def piece(self, token: int) -> str | None:
        return self._tokenizer.id_to_piece(token) if token < self.size else None

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids))


def tokenizer_checks(stage: Stage, kind: str, content: bytes, reference: TokenizerReference) -> None:
    """Compare a tokenizer section with `reference`.

    Args:
        stage: to fill.
        kind: `json` or `model`.
        content: of the section, uncompressed.
        reference: the checkpoint's.
    """
    expected_kind = reference.file.suffix.removeprefix(".")
    if kind != expected_kind:
        stage.holds("the tokenizer is the checkpoint's file", [f"it is a .{kind}, expected {reference.file.name}"])
    else:
        found = _file_differences(kind, content, reference.file.read_bytes())
        stage.holds("the tokenizer is the checkpoint's file", _first(found))
    try:
        read: _Vocabulary = _HuggingFace(content) if kind == "json" else _SentencePiece(content)
    except Exception as error:  # Both libraries raise bare exceptions of several kinds.
        stage.holds("the tokenizer can be read", [" ".join(str(error).split()) or type(error).__name__])
        return
    pieces = reference.pieces()
    stage.holds("its tokens are transformers'", _first(_piece_differences(read, pieces)))
    stage.holds("texts become transformers' tokens", _first(_encoding_differences(read, reference)))
    size = min(read.size, len(pieces))
    stage.holds("tokens become transformers' text", _first(_decoding_differences(read, size, reference)))
    stage.note("tokens compared", float(len(pieces)))


def _first(differences: Iterator[str]) -> list[str]:
    """The first of `differences`; what a tokenizer that can be read cannot do is one of them."""
    found: list[str] = []
    try:
        found += islice(differences, _MOST)
    except Exception as error:  # As above.
        found.append(f"{type(error).__name__}: {' '.join(str(error).split())}")
    return found


def _file_differences(kind: str, found: bytes, expected: bytes) -> Iterator[str]:
    if found == expected:
        return
    if kind == "json":
        yield from _json_file_differences(found, expected)
    else:
        yield from _model_file_differences(found, expected)


def _json_file_differences(found: bytes, expected: bytes) -> Iterator[str]:
    """Tokens by id first, as the rest of a tokenizer.json says little to people."""
    try:
        one, other = json.loads(found), json.loads(expected)
        vocabularies = _take_vocabulary(one), _take_vocabulary(other)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        yield f"it is no readable tokenizer.json ({error})"
        return
    yield from _by_id(*vocabularies)
    yield from json_differences(one, other)


def _take_vocabulary(tokenizer: Any) -> dict[int, str]:
    """Tokens by id, taken out of the parsed file where its model holds them as a map or a list."""
    vocabulary = tokenizer["model"].pop("vocab")
    return (
        {number: token for token, number in vocabulary.items()}
        if isinstance(vocabulary, dict)
        else {number: repr(entry) for number, entry in enumerate(vocabulary)}
    )


def _model_file_differences(found: bytes, expected: bytes) -> Iterator[str]:
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    message: Any = sentencepiece_model_pb2.ModelProto  # pyright: ignore[reportAttributeAccessIssue]
    one, other = message(), message()
    try:
        one.ParseFromString(found)
        other.ParseFromString(expected)
    except DecodeError as error:
        yield f"it is no readable tokenizer.model ({error})"
        return
    yield from _by_id(*({number: piece.piece for number, piece in enumerate(file.pieces)} for file in (one, other)))
    yield from message_differences(one, other)
    yield "its bytes differ from the file's"


def _by_id(found: dict[int, str], expected: dict[int, str]) -> Iterator[str]:
    for token in sorted(found.keys() | expected.keys()):
        if (one := found.get(token)) != (other := expected.get(token)):
            yield f"token {token} is {_text(one)}, expected {_text(other)}"


def _text(piece: str | None) -> str:
    return "none" if piece is None else repr(piece)


def _piece_differences(read: _Vocabulary, pieces: Sequence[str | None]) -> Iterator[str]:
    for token in range(max(read.size, len(pieces))):
        expected = pieces[token] if token < len(pieces) else None
        if (found := read.piece(token)) != expected:
            yield f"token {token} is {_text(found)}, transformers has {_text(expected)}"


def _encoding_differences(read: _Vocabulary, reference: TokenizerReference) -> Iterator[str]:
    for text in (*_TEXTS, *_RARE, "".join(_RARE)):
        expected = list(reference.encode(text))
        if read.control.isdisjoint(expected) and (found := read.encode(text)) != expected:
            pairs = enumerate(zip(found, expected, strict=False))
            at = next((at for at, (one, other) in pairs if one != other), min(len(found), len(expected)))
            yield f"{text[:40]!r}: {found[at : at + 4]} at token {at}, expected {expected[at : at + 4]}"


def _decoding_differences(read: _Vocabulary, size: int, reference: TokenizerReference) -> Iterator[str]:
    """Every token once, in runs, and the texts' own tokens."""
    tokens = [token for token in range(size) if token not in read.control | read.lone_bytes]
    runs = [tokens[start : start + _CHUNK] for start in range(0, len(tokens), _CHUNK)]
    runs += [[token for token in reference.encode(text) if token not in read.control] for text in _TEXTS]
    for run in runs:
        if (found := read.decode(run)) != (expected := reference.decode(run)):
            token = next((t for t in run if read.decode([t]) != reference.decode([t])), None)
            if token is None:
                yield f"tokens {run[0]}..: {found[:40]!r}, expected {expected[:40]!r}"
            else:
                yield f"token {token}: {read.decode([token])!r}, expected {reference.decode([token])!r}"
