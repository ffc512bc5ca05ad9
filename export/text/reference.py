"""What a checkpoint's own tokenizer files say, for `verify` to compare a bundle with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...runtime.errors import UserError
from ...runtime.native_output import quiet_imports
from ...runtime.parity.stages.conversation import ConversationReference
from ...runtime.parity.stages.metadata import CheckpointText
from ..checkpoint.files import Checkpoint
from ..checkpoint.pair import Pair
from ..templates.adapt import adapt_template, compare_templates
from .files import read_text_files


def checkpoint_text(pair: Pair, chat_template: Path | None = None) -> CheckpointText:
    """Stop tokens, start token and chat template of the pair's target; `chat_template` is the file given at export.

    Raises:
        UserError: one of them is missing, or transformers cannot read the tokenizer.
    """
    text = read_text_files(pair.target, pair.target_config, chat_template)
    template, tokens = text.chat_template, text.special_tokens

    def differences(packed: str) -> list[str]:
        return [str(found) for found in compare_templates(template, packed, tokens)]

    starts = adapt_template(template, tokens, name=text.template_source).starts_with_bos
    reference = _conversation_reference(pair.target, template, tokens["bos_token"])
    return CheckpointText(text.stop, text.bos if starts else None, differences, reference)


def _conversation_reference(checkpoint: Checkpoint, template: str, start: str) -> ConversationReference:
    with quiet_imports():
        from transformers import AutoTokenizer
    folder = checkpoint.path("tokenizer_config.json").parent
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # Which kind depends on the value that transformers stumbles over.
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(f"{folder}: transformers cannot read the tokenizer ({reason})") from error

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

    def encode(written: str) -> list[int]:
        return tokenizer(written, add_special_tokens=False)["input_ids"]

    return ConversationReference(render, encode, start)
