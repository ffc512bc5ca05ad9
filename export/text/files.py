"""Everything that a bundle needs of a target beside its weights, read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...runtime.fields import Fields
from ..checkpoint.config import TargetConfig
from ..checkpoint.files import Checkpoint
from .chat_template import find_template, read_template
from .sampling import Sampling, read_sampling
from .special_tokens import CONTROL_TOKENS, known_tokens, single_token, stop_tokens, unstopped
from .tokenizer import open_tokenizer, special_texts


@dataclass(frozen=True)
class TextFiles:
    """What the bundle needs of a checkpoint beside its weights.

    `tokenizer` is a SentencePiece `tokenizer.model` or a Hugging Face `tokenizer.json` of `vocabulary` tokens; `known`
    are the control tokens that it has. `chat_template` comes from the file `template_source`; it sees the texts of
    `special_tokens` by name. `bos` is None where prompts do not begin with a start token. `vision` is the
    configuration's `vision_config`, as far as metadata need it. `warnings` are for the person who exports.
    """

    tokenizer: Path
    chat_template: str
    bos: int | None
    stop: tuple[int, ...]
    pad: int
    sampling: Sampling
    vocabulary: int
    template_source: str = ""
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    known: frozenset[str] = frozenset(CONTROL_TOKENS)
    vision: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def read_text_files(checkpoint: Checkpoint, config: TargetConfig, given: Path | None = None) -> TextFiles:
    """Tokenizer, chat template, special tokens and sampling of a target; `given` is a file with another template.

    Raises:
        UserError: one of them is missing or unreadable, a token lies outside the vocabulary, or a sampling setting is
            wrong.
    """
    path, tokenizer = open_tokenizer(checkpoint, config.vocab_size)
    generation = checkpoint.fields("generation_config.json")
    files = generation.values, checkpoint.config, config.vocab_size, str(checkpoint.folder)
    stop, bos = tuple(stop_tokens(*files)), single_token("bos_token_id", *files)
    found = read_template(given) if given else find_template(checkpoint)
    return TextFiles(
        tokenizer=path,
        chat_template=found.text,
        template_source=found.where,
        special_tokens=special_texts(checkpoint, tokenizer, bos),
        bos=bos,
        stop=stop,
        pad=single_token("pad_token_id", *files, default=0),
        sampling=read_sampling(generation.values, generation.where),
        vocabulary=config.vocab_size,
        known=known_tokens(tokenizer),
        vision=_vision(Fields(checkpoint.config, str(checkpoint.path("config.json")))),
        warnings=unstopped(found.text, tokenizer, stop),
    )


def _vision(config: Fields) -> dict[str, int]:
    """Sizes of the vision tower, transformers' defaults where they are left out; empty without a tower."""
    if not config.has("vision_config"):
        return {}
    tower = config.object("vision_config")
    return {
        "patch_size": tower.integer("patch_size", 16, least=1, most=4096),
        "pooling_kernel_size": tower.integer("pooling_kernel_size", 3, least=1, most=64),
        "default_output_length": tower.integer("default_output_length", 280, least=1, most=65_536),
    }
