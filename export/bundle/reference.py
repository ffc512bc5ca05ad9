"""What a checkpoint says around its weights, for `verify` to compare a bundle with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ...runtime.errors import UserError
from ...runtime.native_output import quiet_imports
from ...runtime.parity.metadata.sampling import SamplingReference
from ...runtime.parity.metadata.tokenizer import TokenizerReference
from ...runtime.parity.stages.conversation import ConversationReference
from ...runtime.parity.stages.metadata import CheckpointText
from ..checkpoint.files import Checkpoint
from ..checkpoint.pair import Pair
from ..models.kv_cache import kv_signature
from ..templates.adapt import compare_templates
from ..text.files import read_text_files
from .manifest import manifest_sources
from .metadata import executor_metadata, llm_metadata
from .template import adapted_text, verdict


def checkpoint_text(pair: Pair, chat_template: Path | None = None) -> CheckpointText:
    """What the files of the pair say around the weights; `chat_template` is the file given at export.

    Raises:
        UserError: one of them is missing, or transformers cannot read it.
    """
    text = read_text_files(pair.target, pair.target_config, chat_template)
    template, tokens = text.chat_template, text.special_tokens

    def differences(packed: str) -> list[str]:
        return [str(found) for found in compare_templates(template, packed, tokens)]

    packed, adapted = adapted_text(text, allow_difference=True)
    tokenizer = _transformers_tokenizer(pair.target)
    # Neither message depends on the length of context or caches but in `max_num_tokens`, which has a check of its own.
    kv = kv_signature(pair.target_config, pair.drafter_config, 1)
    return CheckpointText(
        stop=text.stop,
        start=packed.bos,
        differences=differences,
        conversation=_conversation_reference(tokenizer, template, tokens["bos_token"]),
        tokenizer=tokenizer_reference(tokenizer, text.tokenizer),
        sampling=_sampling_reference(pair.target, text.vocabulary),
        llm_metadata=llm_metadata(packed, 0),
        executor_metadata=executor_metadata(pair.target_config, kv),
        template_note=verdict(adapted),
        sources=partial(manifest_sources, pair),
    )


def _transformers_tokenizer(checkpoint: Checkpoint) -> Any:
    with quiet_imports():
        from transformers import AutoTokenizer
    folder = checkpoint.path("tokenizer_config.json").parent
    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # Which kind depends on the value that transformers stumbles over.
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(f"{folder}: transformers cannot read the tokenizer ({reason})") from error


def tokenizer_reference(tokenizer: Any, file: Path) -> TokenizerReference:
    """A tokenizer of transformers as `verify` asks it; `file` is what it was read from."""

    def pieces() -> list[str | None]:
        return tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))

    def decode(ids: Sequence[int]) -> str:
        return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    return TokenizerReference(file, pieces, partial(_encode, tokenizer), decode)


def _sampling_reference(checkpoint: Checkpoint, vocabulary: int) -> SamplingReference:
    with quiet_imports():
        from transformers import GenerationConfig
    file = checkpoint.path("generation_config.json")
    try:
        settings: Any = GenerationConfig.from_pretrained(file.parent) if file.is_file() else GenerationConfig()
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{file}: transformers cannot read it ({' '.join(str(error).split())})") from error
    return SamplingReference(settings.do_sample, settings.top_k, settings.top_p, settings.temperature, vocabulary)


def _encode(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _conversation_reference(tokenizer: Any, template: str, start: str) -> ConversationReference:
    def render(
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        **variables: Any,
    ) -> str:
        return tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            chat_template=template,
            tokenize=False,
            **variables,
        )

    return ConversationReference(render, partial(_encode, tokenizer), start)
