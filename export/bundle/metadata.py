"""LiteRT-LM's metadata sections, from the checkpoint's tokenizer files, generation settings and the KV signature."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from ...runtime.bundle.protos import (
    ATTENTION_MASK_TYPE_CAUSAL,
    ExecutorMetadata,
    LlmMetadata,
    SamplerParameters,
    StateBuffer,
)
from ...runtime.errors import UserError
from ..checkpoint.config import TargetConfig
from ..checkpoint.files import Checkpoint
from ..models.kv_cache import SEQUENCE_AXIS, KVSignature

# The only runtime version whose behaviour with these bundles was tried.
MIN_RUNTIME_VERSION = "0.18.1"
_TURN = "<|turn>"
# Gemma's published sampling defaults, for checkpoints without a generation_config.json.
_DEFAULT_SAMPLING = {"do_sample": True, "top_k": 64, "top_p": 0.95, "temperature": 1.0}


@dataclass(frozen=True)
class TextFiles:
    """What the bundle needs of a checkpoint beside its weights.

    `tokenizer` is a SentencePiece `tokenizer.model` or a Hugging Face `tokenizer.json`.
    """

    tokenizer: Path
    chat_template: str
    bos: int
    stop: tuple[int, ...]
    pad: int
    sampling: dict[str, Any]


def read_text_files(checkpoint: Checkpoint, config: TargetConfig) -> TextFiles:
    """Tokenizer, chat template and special tokens of a target.

    Raises:
        UserError: one of them is missing, or a special token lies outside the vocabulary.
    """
    tokenizer = next((p for p in map(checkpoint.path, ("tokenizer.model", "tokenizer.json")) if p.is_file()), None)
    if tokenizer is None:
        raise UserError(f"{checkpoint.folder}: no tokenizer.model and no tokenizer.json; copy them from the base model")
    generation: dict[str, Any] = {}
    if checkpoint.path("generation_config.json").is_file():
        generation = checkpoint.read_json("generation_config.json", "")
    text = checkpoint.config.get("text_config", checkpoint.config)
    ids = {key: generation.get(key, text.get(key)) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    stop = ids["eos_token_id"] if isinstance(ids["eos_token_id"], list) else [ids["eos_token_id"]]
    named = {"bos_token_id": [ids["bos_token_id"]], "eos_token_id": stop, "pad_token_id": [ids["pad_token_id"] or 0]}
    for key, values in named.items():
        for value in values or [None]:
            if not isinstance(value, int) or not 0 <= value < config.vocab_size:
                raise UserError(f"{checkpoint.folder}: {key} is {value}, expected a token below {config.vocab_size}")
    return TextFiles(
        tokenizer=tokenizer,
        chat_template=_chat_template(checkpoint),
        bos=named["bos_token_id"][0],
        stop=tuple(stop),
        pad=named["pad_token_id"][0],
        sampling={key: generation.get(key, default) for key, default in _DEFAULT_SAMPLING.items()},
    )


def _chat_template(checkpoint: Checkpoint) -> str:
    path = checkpoint.path("chat_template.jinja")
    if path.is_file():
        return path.read_text("utf-8")
    config = checkpoint.path("tokenizer_config.json")
    template = json.loads(config.read_text("utf-8")).get("chat_template") if config.is_file() else None
    if isinstance(template, list):  # Several named templates.
        template = next((entry["template"] for entry in template if entry.get("name") == "default"), None)
    if not template:
        raise UserError(
            f"{checkpoint.folder}: no chat template (chat_template.jinja, or chat_template in tokenizer_config.json);"
            " copy it from the base model"
        )
    return template


def llm_metadata(files: TextFiles, context_length: int) -> Message:
    """`LlmMetadata` of a Gemma 4 bundle; the runtime falls back silently for anything that is missing."""
    metadata = LlmMetadata()
    metadata.start_token.token_ids.ids.append(files.bos)
    for token in files.stop:
        metadata.stop_tokens.add().token_ids.ids.append(token)
    metadata.pad_token.token_ids.ids.append(files.pad)
    metadata.max_num_tokens = context_length
    metadata.llm_model_type.gemma4.SetInParent()
    metadata.jinja_prompt_template = files.chat_template
    if _TURN in files.chat_template:
        metadata.prompt_templates.user.prefix = "<|turn>user\n"
        metadata.prompt_templates.user.suffix = "<turn|>\n"
        metadata.prompt_templates.system.prefix = "<|turn>system\n"
        metadata.prompt_templates.system.suffix = "<turn|>\n"
        metadata.prompt_templates.model.prefix = "<|turn>model\n"
        metadata.prompt_templates.model.suffix = "<turn|>\n"
    metadata.supports_thinking = "enable_thinking" in files.chat_template
    metadata.supports_function_calling = "tools" in files.chat_template
    if metadata.supports_thinking:
        channel = metadata.channels.add()
        channel.channel_name, channel.start, channel.end = "thought", "<|channel>thought\n", "<channel|>"
        channel.is_reasoning_channel = True
    _set_sampling(metadata.sampler_params, files.sampling)
    metadata.min_runtime_version = MIN_RUNTIME_VERSION
    return metadata


def _set_sampling(parameters: Any, sampling: dict[str, Any]) -> None:
    greedy = not sampling["do_sample"]
    parameters.type = SamplerParameters.TOP_P
    parameters.k = 1 if greedy else int(sampling["top_k"])
    parameters.p = 1.0 if greedy else float(sampling["top_p"])
    parameters.temperature = 1.0 if greedy else float(sampling["temperature"])
    parameters.seed = 0


def executor_metadata(config: TargetConfig, kv: KVSignature) -> Message:
    """`ExecutorMetadata`: one state buffer per cache tensor, and how to fill the mask.

    Sliding layers are declared like the others, as their caches too hold every position: a runtime that shortened
    them to the window would no longer fit the graphs.
    """
    metadata = ExecutorMetadata()
    executor = metadata.llm_executor_metadata
    for cache in kv.target:
        for name, kind, axis in (
            (cache.key_name, StateBuffer.TYPE_GLOBAL_KEY_CACHE, SEQUENCE_AXIS["k"]),
            (cache.value_name, StateBuffer.TYPE_GLOBAL_VALUE_CACHE, SEQUENCE_AXIS["v"]),
        ):
            buffer = executor.state_buffers.add()
            buffer.prefill_input_name = buffer.prefill_output_name = name
            buffer.decode_input_name = buffer.decode_output_name = name
            buffer.type, buffer.sequence_axis = kind, axis
    executor.attention_mask_settings.attention_mask_type = ATTENTION_MASK_TYPE_CAUSAL
    executor.attention_mask_settings.sliding_window_size = config.sliding.window or 0
    return metadata
