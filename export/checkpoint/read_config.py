"""`config.json` of target and drafter: every value that the export uses, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from ...runtime.errors import UserError
from ...runtime.fields import Fields, shown
from .config import LAYER_TYPES, AttentionConfig, DrafterConfig, LayerType, TargetConfig
from .quantized.settings import holds_codes

# What people take for an E2B or E4B, by model_type.
_OTHER_MODELS = {
    "gemma4_unified": "Gemma 4 12B, which has one decoder for all inputs",
    "gemma4_unified_text": "Gemma 4 12B, which has one decoder for all inputs",
    "gemma4_unified_assistant": "the drafter of Gemma 4 12B",
    "gemma3": "Gemma 3, which has no MTP drafter",
    "gemma3_text": "Gemma 3, which has no MTP drafter",
    "gemma3n": "Gemma 3n, which has no MTP drafter",
    "gemma3n_text": "Gemma 3n, which has no MTP drafter",
}
# transformers' Gemma4TextConfig falls back to these where a checkpoint leaves them out.
_DEFAULT_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0},
}
_DEFAULT_SLIDING_LAYERS_PER_FULL = 5
# Far above any model, and low enough that a wrong number is found before memory is asked for it.
_MOST_LAYERS, _MOST_HEADS, _MOST_WIDTH, _MOST_TOKENS = 1024, 4096, 2**20, 2**24


def read_target_config(raw: Mapping[str, Any], where: str) -> TargetConfig:
    """Target configuration from the contents of its `config.json`; `where` names the file in errors.

    Raises:
        UserError: not a Gemma 4 target, one of a kind that cannot be exported, or a value of a wrong type or size.
    """
    fields = Fields(raw, where)
    holds_codes(raw, where)
    model_type = raw.get("model_type")
    if model_type == "gemma4_assistant":
        raise UserError(f"{where}: this is an MTP drafter (gemma4_assistant), expected a target: give the target first")
    if model_type not in ("gemma4", "gemma4_text"):
        raise UserError(
            f"{where}: {_named(model_type)}, expected 'gemma4': only E2B, E4B and fine-tunes of them can be exported"
        )
    text = fields.object("text_config") if "text_config" in raw else fields
    common = _decoder_fields(text)
    if not common["kv_shared_layers"] or not common["ple_dim"]:
        raise UserError(
            f"{where}: no KV-sharing layers or no per-layer embeddings (31B and 12B are built so);"
            " only E2B- and E4B-like targets can be exported"
        )
    positions = text.integer("max_position_embeddings", 131_072, least=1, most=_MOST_TOKENS)
    config = TargetConfig(**common, max_position_embeddings=positions)
    for layer_type in LAYER_TYPES:
        if layer_type not in config.layer_types[: config.own_kv_layers]:
            raise UserError(f"{where}: none of the first {config.own_kv_layers} layers is a {layer_type} layer with KV")
    return config


def read_drafter_config(raw: Mapping[str, Any], where: str) -> DrafterConfig:
    """Drafter configuration from the contents of its `config.json`; `where` names the file in errors.

    Raises:
        UserError: not a Gemma 4 assistant, one that cannot be exported, or a value of a wrong type or size.
    """
    fields = Fields(raw, where)
    holds_codes(raw, where)
    model_type = raw.get("model_type")
    if model_type != "gemma4_assistant":
        hint = "this is a target" if model_type in ("gemma4", "gemma4_text") else _named(model_type)
        raise UserError(f"{where}: {hint}, expected an MTP drafter ('gemma4_assistant'): give the drafter second")
    text = fields.object("text_config")
    layers = {"num_kv_shared_layers": text.values.get("num_hidden_layers")}
    common = _decoder_fields(Fields({**text.values, **layers}, where, text.path))
    if common["ple_dim"] or common["double_wide_mlp"]:
        raise UserError(f"{where}: per-layer embeddings or a double-wide MLP, which no Gemma 4 assistant has")
    clustered = fields.flag("use_ordered_embeddings", False)
    clusters = fields.integer("num_centroids", 2048, least=1, most=_MOST_TOKENS) if clustered else None
    chosen = fields.integer("centroid_intermediate_top_k", 32, least=1, most=_MOST_TOKENS)
    if clusters is not None and (common["vocab_size"] % clusters or chosen > clusters):
        raise UserError(
            f"{where}: num_centroids {clusters} must divide vocab_size {common['vocab_size']}"
            f" and be at least centroid_intermediate_top_k {chosen}"
        )
    return DrafterConfig(
        **common,
        backbone_hidden_size=fields.integer("backbone_hidden_size", 1536, least=1, most=_MOST_WIDTH),
        clusters=clusters,
        chosen_clusters=chosen,
    )


def _decoder_fields(text: Fields) -> dict[str, Any]:
    if text.flag("enable_moe_block", False):
        raise UserError(f"{text.where}: a mixture of experts (26B-A4B); only E2B- and E4B-like targets can be exported")
    if text.flag("attention_k_eq_v", False):
        raise UserError(f"{text.where}: attention_k_eq_v is set (31B); only E2B- and E4B-like targets can be exported")
    text.choice("hidden_activation", ["gelu_pytorch_tanh"], "gelu_pytorch_tanh")
    text.choice("attention_bias", [False], False)
    text.choice("use_bidirectional_attention", [None, "vision"])

    layers = text.integer("num_hidden_layers", least=1, most=_MOST_LAYERS)
    layer_types = _layer_types(text, layers)
    query_heads = text.integer("num_attention_heads", least=1, most=_MOST_HEADS)
    attention = {layer_type: _attention(text, layer_type, layer_types) for layer_type in LAYER_TYPES}
    for layer_type, config in attention.items():
        if query_heads % config.kv_heads:
            raise UserError(
                f"{text.where}: {query_heads} query heads are no multiple of {config.kv_heads} in {layer_type}"
            )
    softcapping = "final_logit_softcapping"
    return {
        "vocab_size": text.integer("vocab_size", least=1, most=_MOST_TOKENS),
        "hidden_size": text.integer("hidden_size", least=1, most=_MOST_WIDTH),
        "intermediate_size": text.integer("intermediate_size", least=1, most=_MOST_WIDTH),
        "double_wide_mlp": text.flag("use_double_wide_mlp", False),
        "layer_types": layer_types,
        "query_heads": query_heads,
        "sliding": attention["sliding_attention"],
        "full": attention["full_attention"],
        "kv_shared_layers": text.integer("num_kv_shared_layers", 0, most=layers),
        "rms_norm_eps": text.number("rms_norm_eps", 1e-6, above=0, most=1),
        "final_logit_softcapping": text.number(softcapping, above=0) if text.has(softcapping) else None,
        "ple_dim": _or_none(text, "hidden_size_per_layer_input", 256, _MOST_WIDTH),
        "ple_vocab_size": _or_none(text, "vocab_size_per_layer_input", 262_144, _MOST_TOKENS),
    }


def _or_none(text: Fields, key: str, default: int, most: int) -> int:
    """A size of what a model need not have: null is 0."""
    return text.integer(key, default, most=most) if text.values.get(key, default) is not None else 0


def _layer_types(text: Fields, layers: int) -> tuple[LayerType, ...]:
    period = _DEFAULT_SLIDING_LAYERS_PER_FULL + 1
    default = [LAYER_TYPES[(layer + 1) % period == 0 or layer == layers - 1] for layer in range(layers)]
    found = text.sequence("layer_types") if text.has("layer_types") else default
    if len(found) != layers or any(each not in LAYER_TYPES for each in found):
        raise UserError(
            f"{text.where}: {text.path}layer_types must name {layers} layers, each one of {', '.join(LAYER_TYPES)}"
        )
    return cast("tuple[LayerType, ...]", tuple(found))


def _attention(text: Fields, layer_type: LayerType, layer_types: tuple[LayerType, ...]) -> AttentionConfig:
    full = layer_type == "full_attention"
    head_dim = _head_dim(
        text, full_layers=[at for at, found in enumerate(layer_types) if found == layer_type] if full else None
    )
    rope = text.object("rope_parameters") if text.has("rope_parameters") else Fields(_DEFAULT_ROPE, text.where)
    rope = rope.object(layer_type)
    rope_type = rope.choice("rope_type", ["proportional", "default"] if full else ["default"])
    if rope.number("factor", 1.0) != 1:
        rope.refuse("factor", "1")
    rotated = head_dim // 2
    if rope_type == "proportional":
        rotated = int(rope.number("partial_rotary_factor", 1.0, above=0, most=1) * head_dim // 2)
        if not rotated:
            rope.refuse("partial_rotary_factor", f"a share that turns a pair at least of head_dim {head_dim}")
    return AttentionConfig(
        head_dim=head_dim,
        kv_heads=text.integer("num_key_value_heads", least=1, most=_MOST_HEADS),
        rope_theta=rope.number("rope_theta", above=0),
        rotated_pairs=rotated,
        window=None if full else text.integer("sliding_window", 512, least=1, most=_MOST_TOKENS),
    )


def _head_dim(text: Fields, full_layers: list[int] | None) -> int:
    """Head size of the layers `full_layers`, which attend to everything; of the sliding layers without.

    transformers >= 5.22 writes the former layer by layer; older configurations say `global_head_dim`.
    """
    if full_layers is None:
        return _even(text, "head_dim", 256)
    if "per_layer_config" not in text.values:
        return _even(text, "global_head_dim", 512)
    common = _even(text, "head_dim", 256)
    layers = text.object("per_layer_config", {}) if text.has("per_layer_config") else Fields({}, text.where)
    overrides: dict[int, Fields] = {}
    for key in layers.values:  # Layer numbers, zero-padded to equal length.
        if not str(key).isdecimal() or len(str(key)) > len(str(_MOST_LAYERS)):
            raise UserError(f"{text.where}: {layers.path}{shown(key)} is no layer's number, expected one such as '03'")
        overrides[int(key)] = layers.object(key)
    dims = {_even(overrides[layer], "head_dim", common) if layer in overrides else common for layer in full_layers}
    if len(dims) > 1:
        raise UserError(f"{text.where}: per_layer_config gives the full-attention layers different head_dim: {dims}")
    return dims.pop() if dims else common


def _even(fields: Fields, key: str, default: int) -> int:
    size = fields.integer(key, default, least=2, most=_MOST_WIDTH)
    if size % 2:
        fields.refuse(key, "an even number, as positions turn pairs", default)
    return size


def _named(model_type: object) -> str:
    known = _OTHER_MODELS.get(str(model_type))
    return f"model_type is {shown(model_type)}" + (f" ({known})" if known else "")
