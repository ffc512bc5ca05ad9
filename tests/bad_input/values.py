"""Wrong values of every key that is read from a file, and files that hold no JSON object at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAN, INFINITY = float("nan"), float("inf")
NO_INTEGER = ("8", -1, 1.5, True, [8], {"a": 1}, NAN, INFINITY, 10**30)
NO_NUMBER = ("1", -1.0, True, [1.0], {}, NAN, -INFINITY, 10**400)
NO_FLAG = ("yes", 1, 0.0, [], {})
NO_OBJECT = ("x", 7, [[]], True)
NO_TEXT = (7, 1.5, True, ["<x>"], {"content": 7}, {"content": None}, "\ud800")
NO_TOKEN = ("1", -1, 1.5, True, {}, [[1]], 10**30, [1, "x"])

TEXT, ROPE = "text_config.", "text_config.rope_parameters."
_INTEGERS = tuple(
    TEXT + key
    for key in (
        "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size", "hidden_size",
        "intermediate_size", "head_dim", "global_head_dim", "sliding_window",
    )
)  # fmt: skip
_NUMBERS = (
    TEXT + "rms_norm_eps", TEXT + "final_logit_softcapping", ROPE + "full_attention.rope_theta",
    ROPE + "sliding_attention.rope_theta", ROPE + "full_attention.partial_rotary_factor",
)  # fmt: skip
_FLAGS = tuple(TEXT + key for key in ("enable_moe_block", "attention_k_eq_v", "use_double_wide_mlp", "attention_bias"))
_OBJECTS = ("text_config", "text_config.rope_parameters", ROPE + "full_attention", ROPE + "sliding_attention",
            "quantization_config", "text_config.quantization_config", "text_config.per_layer_config")  # fmt: skip
_DECODER: tuple[tuple[tuple[str, ...], tuple[Any, ...]], ...] = (
    (_INTEGERS, NO_INTEGER),
    (_NUMBERS, NO_NUMBER),
    (_FLAGS, NO_FLAG),
    (_OBJECTS, NO_OBJECT),
    ((TEXT + "layer_types",), ("x", 7, [7], [[]] * 10, {}, [None] * 10, ["sliding_attention"] * 3)),
    ((TEXT + "hidden_activation",), ("silu", 7, [], {}, None)),
    ((TEXT + "use_bidirectional_attention",), ("all", 7, [], {}, True)),
    ((ROPE + "full_attention.rope_type",), ("yarn", 7, [], {}, None)),
    ((ROPE + "sliding_attention.factor",), ("1", 2.0, [], {}, NAN)),
    (("model_type",), ("gemma3", 7, [], {}, None)),
    (
        (TEXT + "per_layer_config",),
        ({"x": {}}, {"4": 7}, {"3": {"head_dim": "64"}, "4": {"head_dim": "64"}}, {"9" * 5000: {}}),
    ),
)
_OF_TARGET: tuple[tuple[tuple[str, ...], tuple[Any, ...]], ...] = (
    (tuple(TEXT + key for key in ("hidden_size_per_layer_input", "vocab_size_per_layer_input",
                                  "num_kv_shared_layers", "max_position_embeddings")), NO_INTEGER),
    (("tie_word_embeddings",), NO_FLAG),
)  # fmt: skip
_OF_DRAFTER: tuple[tuple[tuple[str, ...], tuple[Any, ...]], ...] = (
    (("backbone_hidden_size", "num_centroids", "centroid_intermediate_top_k"), NO_INTEGER),
    (("use_ordered_embeddings", "tie_word_embeddings"), NO_FLAG),
)
_GENERATION: tuple[tuple[tuple[str, ...], tuple[Any, ...]], ...] = (
    (("bos_token_id", "pad_token_id", "eos_token_id"), NO_TOKEN),
    (("do_sample",), NO_FLAG),
    (("top_k",), NO_INTEGER),
    (("top_p",), (*NO_NUMBER, 0, 1.5)),
    (("temperature",), NO_NUMBER),
)
_TOKENIZER: tuple[tuple[tuple[str, ...], tuple[Any, ...]], ...] = (
    (("bos_token", "eos_token", "unk_token", "pad_token"), NO_TEXT),
)
_ADAPTER: tuple[tuple[tuple[str, ...], tuple[Any, ...]], ...] = (
    (("r",), NO_INTEGER),
    (("lora_alpha",), NO_NUMBER),
    (("use_rslora", "use_dora"), NO_FLAG),
    (("rank_pattern", "alpha_pattern"), (*NO_OBJECT, {"q_proj": "8"}, {"q_proj": -1}, {"(": 8}, {"q_proj": None})),
    (("modules_to_save",), ("lm_head", 7, [7], {}, True)),
    (("trainable_token_indices",), ("x", 7, [1.5], ["1"], [-1], {"embed_tokens": 7}, {"lm_head": [1]}, True)),
    (("base_model_name_or_path",), (7, [], {}, True)),
    (("peft_type",), ("IA3", 7, [], {}, None)),
)


@dataclass(frozen=True)
class Wrong:
    """One key of one file with one wrong value. `folder` is `target`, `drafter` or `adapter`."""

    folder: str
    file: str
    key: str
    value: Any

    @property
    def named(self) -> str:
        """What the error must name: the key without the objects that it stands in."""
        return self.key.rpartition(".")[2]

    def __str__(self) -> str:
        return f"{self.folder}/{self.file}:{self.key}={ascii(self.value)[:30]}"


def wrong_values() -> Iterator[Wrong]:
    """All of them."""
    for folder, file, tables in (
        ("target", "config.json", (*_DECODER, *_OF_TARGET)),
        ("drafter", "config.json", (*_DECODER, *_OF_DRAFTER)),
        ("target", "generation_config.json", _GENERATION),
        ("target", "tokenizer_config.json", _TOKENIZER),
        ("adapter", "adapter_config.json", _ADAPTER),
    ):
        for keys, values in tables:
            yield from (Wrong(folder, file, key, value) for key in keys for value in values)
    for value in ("x", 7, [], {"patch_size": "16"}, {"pooling_kernel_size": -1}, {"default_output_length": 10**30}):
        yield Wrong("target", "config.json", "vision_config", value)
    for value in (7, True, {}, "", " ", [7], {"default": 7}, "\ud800"):
        yield Wrong("target", "chat_template.json", "chat_template", value)


def _write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


# What may stand in place of a JSON object.
NO_JSON: dict[str, Callable[[Path], object]] = {
    "empty": _write(b""),
    "truncated": _write(b'{"model_type": "gem'),
    "no UTF-8": _write(b'{"model_type": "\xff\xfe"}'),
    "UTF-16": _write('{"model_type": "gemma4"}'.encode("utf-16")),
    "byte order mark": _write(b"\xef\xbb\xbf{}"),
    "nested": _write(b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "number of 5,000 digits": _write(b'{"a": ' + b"9" * 5000 + b"}"),
    "key twice": _write(b'{"a": 1, "a": 2}'),
    "list": _write(b"[]"),
    "null": _write(b"null"),
    "zeros": _write(bytes(64)),
    "folder": lambda path: path.mkdir(),
    "pipe": lambda path: os.mkfifo(path),
    "link to nothing": lambda path: path.symlink_to("nowhere"),
}
JSON_FILES = (
    ("target", "config.json"),
    ("drafter", "config.json"),
    ("target", "generation_config.json"),
    ("target", "tokenizer_config.json"),
    ("target", "chat_template.json"),
    ("target", "model.safetensors.index.json"),
    ("adapter", "adapter_config.json"),
)
