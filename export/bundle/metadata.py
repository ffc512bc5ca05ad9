"""LiteRT-LM's metadata sections, from the checkpoint's tokenizer files, generation settings and the KV signature."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from ...runtime.bundle.protos import (
    ATTENTION_MASK_TYPE_CAUSAL,
    ExecutorMetadata,
    LlmMetadata,
    SamplerParameters,
    StateBuffer,
)
from ..checkpoint.config import TargetConfig
from ..models.kv_cache import SEQUENCE_AXIS, KVSignature
from ..text.files import TextFiles
from ..text.sampling import Sampling

# The oldest runtime version whose behaviour with these bundles was tried, and the newest there is for Android apps.
MIN_RUNTIME_VERSION = "0.18.0"
_TURN = "<|turn>"


def llm_metadata(files: TextFiles, context_length: int) -> Message:
    """`LlmMetadata` of a Gemma 4 bundle; the runtime falls back silently for anything that is missing."""
    metadata = LlmMetadata()
    if files.bos is not None:
        metadata.start_token.token_ids.ids.append(files.bos)
    for token in files.stop:
        metadata.stop_tokens.add().token_ids.ids.append(token)
    metadata.pad_token.token_ids.ids.append(files.pad)
    metadata.max_num_tokens = context_length
    _set_model_type(metadata.llm_model_type.gemma4, files)
    metadata.jinja_prompt_template = files.chat_template
    if _TURN in files.chat_template:
        for role in ("user", "model"):
            affixes = getattr(metadata.prompt_templates, role)
            affixes.prefix, affixes.suffix = f"<|turn>{role}\n", "<turn|>\n"
    metadata.supports_thinking = "enable_thinking" in files.chat_template
    metadata.supports_function_calling = "tools" in files.chat_template
    if {"<|channel>", "<channel|>"} <= files.known:
        channel = metadata.channels.add()
        channel.channel_name, channel.start, channel.end = "thought", "<|channel>thought\n", "<channel|>"
    _set_sampling(metadata.sampler_params, files)
    metadata.min_runtime_version = MIN_RUNTIME_VERSION
    return metadata


def _set_model_type(gemma4: Any, files: TextFiles) -> None:
    """LiteRT-LM's own values for E2B and E4B, as far as the checkpoint's tokenizer has the tokens they name.

    Those of images and audio are read only where a message holds one; a bundle of the text model alone states them
    too, so that they are right for whoever adds the encoders' sections. `use_template_for_fc_format` is theirs as well,
    but gone from 0.18.1's own message: since 0.17 tools are always written by the template.
    """
    gemma4.SetInParent()
    for token, written in (
        (gemma4.start_of_image_token, "<|image>"),
        (gemma4.end_of_image_token, "<image|>"),
        (gemma4.start_of_audio_token, "<|audio>"),
        (gemma4.end_of_audio_token, "<audio|>"),
    ):
        if written in files.known:
            token.token_str = written
    if files.vision and "<|image>" in files.known:
        gemma4.patch_width = gemma4.patch_height = files.vision["patch_size"]
        pooled = files.vision["pooling_kernel_size"] ** 2
        gemma4.max_num_patches = files.vision["default_output_length"] * pooled
    for key, written in (
        ("code_fence_start", "<|tool_call>"),
        ("code_fence_end", "<tool_call|>"),
        ("open_quote", '<|"|>'),
        ("close_quote", '<|"|>'),
        ("function_response_start", "<|tool_response>"),
    ):
        if written in files.known:
            setattr(gemma4, key, written)


def _set_sampling(parameters: Any, files: TextFiles) -> None:
    sampling = files.sampling if files.sampling.do_sample else Sampling(top_k=1)
    parameters.type = SamplerParameters.TOP_P
    parameters.k = sampling.top_k or files.vocabulary
    parameters.p, parameters.temperature = sampling.top_p, sampling.temperature
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
