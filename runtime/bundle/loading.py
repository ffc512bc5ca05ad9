"""Open a bundle to run it: its models, tokenizer and metadata, all from the .litertlm file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..mapped import mapped_bytes
from ..text.tokenizer import Tokenizer, read_tokenizer
from .container import BundleFile, Section
from .context.choice import Edit, choose_context, context_edits, with_context
from .context.placeholder import is_placeholder
from .contract import Contract, read_contract
from .model_file import ModelInfo, read_model
from .names import EMBEDDER, MTP_DRAFTER, PER_LAYER_EMBEDDER, PREFILL_DECODE

_NEEDED = (PREFILL_DECODE, EMBEDDER, PER_LAYER_EMBEDDER, MTP_DRAFTER)


@dataclass(frozen=True)
class ModelSource:
    """One .tflite model in a bundle: what it says of itself, `content`, its bytes, mapped where that can be, and the
    section that they lie in. What it says and its bytes have the context that the bundle was opened with."""

    info: ModelInfo
    content: Callable[[], bytes]
    where: str
    section: Section


@dataclass(frozen=True)
class TextRules:
    """How prompts become tokens and where answers end.

    `start` is put before every prompt; an answer ends with one of the token sequences `stop`. `context_length` is the
    maximum of prompt and answer together, in tokens. `chat_template` is Jinja, empty if the bundle has none.
    """

    start: tuple[int, ...]
    stop: tuple[tuple[int, ...], ...]
    context_length: int
    chat_template: str


@dataclass(frozen=True)
class OpenBundle:
    """A bundle that was found whole; nothing is compiled yet."""

    where: str
    models: dict[str, ModelSource]
    contract: Contract
    tokenizer: Tokenizer
    rules: TextRules


def open_bundle(
    path: Path, known: Mapping[str, ModelInfo] | None = None, context_length: int | None = None
) -> OpenBundle:
    """Read a .litertlm file, or the one in a folder; the .tflite files beside it are not looked at.

    Args:
        path: of the file or the folder.
        known: what its models say of themselves, by type, where they were read before.
        context_length: prompt and answer together, in tokens; what the bundle asks for by default.

    Raises:
        UserError: not a bundle, truncated, or without a section, signature or tensor that is needed to run it; or it
            cannot have that context.
    """
    bundle = BundleFile(bundle_file_in(path))
    models = _models(bundle, known or {})
    where = str(path)
    contract = read_contract({name: source.info for name, source in models.items()}, where)
    context = _context(bundle, contract, context_length, where)
    if is_placeholder(slots := contract.slots):
        models = {name: _with_context(bundle, source, slots, context) for name, source in models.items()}
        read = read_contract({name: source.info for name, source in models.items()}, where)
        contract = replace(read, placeholder=slots)
    kind_and_content = bundle.tokenizer()
    if kind_and_content is None:
        raise UserError(f"{where}: no tokenizer section; pack the bundle again with one")
    tokenizer = read_tokenizer(*kind_and_content, where)
    return OpenBundle(where, models, contract, tokenizer, _rules(bundle, context, tokenizer))


def bundle_file_in(path: Path) -> Path:
    """The .litertlm file: `path` itself, or the one in the folder `path`.

    Raises:
        UserError: the folder holds none, or more than one.
    """
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.litertlm"))
    if len(found) != 1:
        count = f"{len(found)} .litertlm files" if found else "no .litertlm file"
        raise UserError(f"{path}: {count}; expected an export's folder, with one in it, or name the file itself")
    return found[0]


def _models(bundle: BundleFile, known: Mapping[str, ModelInfo]) -> dict[str, ModelSource]:
    found: dict[str, ModelSource] = {}
    for name, section in bundle.model_sections().items():
        if name in _NEEDED:
            where = f"{bundle.path} ({name})"
            info = _with_signatures(known.get(name) or read_model(bundle.content(section), where), where)
            found[name] = ModelSource(info, partial(_content, bundle, section), where, section)
    return found


def _content(bundle: BundleFile, section: Section, edits: Sequence[Edit] = ()) -> bytes:
    if mapped := mapped_bytes(bundle.path, section.begin, section.end, edits):
        return mapped
    content = bytearray(bundle.copy(section))
    for at, new in edits:
        content[at : at + len(new)] = new
    return bytes(content)


def _with_context(bundle: BundleFile, source: ModelSource, placeholder: int, length: int) -> ModelSource:
    section = source.section

    def content() -> bytes:
        return _content(bundle, section, context_edits(bundle.content(section), placeholder, length))

    return replace(source, info=with_context(source.info, placeholder, length), content=content)


def _context(bundle: BundleFile, contract: Contract, asked: int | None, where: str) -> int:
    """The context to load the bundle with."""
    if bundle.llm_metadata is None:
        raise UserError(f"{where}: no LLM metadata section; pack the bundle again with one")
    stated = bundle.llm_metadata.max_num_tokens
    reserve = contract.max_draft_tokens + 1
    return choose_context(asked, stated, contract.slots, bundle.smallest_context, reserve, where)


def _with_signatures(info: ModelInfo, where: str) -> ModelInfo:
    if not info.signatures:
        raise UserError(f"{where}: the model has no signature; export it again")
    return info


def _rules(bundle: BundleFile, context: int, tokenizer: Tokenizer) -> TextRules:
    metadata = bundle.llm_metadata

    def ids(token: Any) -> tuple[int, ...]:
        return tuple(tokenizer.encode(token.token_str) if token.HasField("token_str") else token.token_ids.ids)

    return TextRules(
        start=ids(metadata.start_token) if metadata.HasField("start_token") else (),
        stop=tuple(tokens for token in metadata.stop_tokens if (tokens := ids(token))),
        context_length=context,
        chat_template=metadata.jinja_prompt_template,
    )
