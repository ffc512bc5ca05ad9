"""Frozen configurations of target and drafter, read from `config.json`, and the check that the two belong together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from ...runtime.errors import UserError

LayerType = Literal["sliding_attention", "full_attention"]
LAYER_TYPES: tuple[LayerType, LayerType] = ("sliding_attention", "full_attention")

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


@dataclass(frozen=True)
class AttentionConfig:
    """Attention of one layer type.

    `rotated_pairs` of the `head_dim // 2` rotary pairs turn; the others have frequency zero.
    `window` is the number of newest tokens a query sees, itself included; None for all.
    """

    head_dim: int
    kv_heads: int
    rope_theta: float
    rotated_pairs: int
    window: int | None


@dataclass(frozen=True)
class DecoderConfig:
    """What target and drafter have in common: a stack of Gemma 4 decoder layers.

    `own_head`: the checkpoint holds a head apart from the embedding (tensors decide it, not `config.json`).
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    double_wide_mlp: bool
    layer_types: tuple[LayerType, ...]
    query_heads: int
    sliding: AttentionConfig
    full: AttentionConfig
    kv_shared_layers: int
    rms_norm_eps: float
    final_logit_softcapping: float | None
    ple_dim: int
    ple_vocab_size: int
    own_head: bool = field(default=False, kw_only=True)

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return len(self.layer_types)

    @property
    def own_kv_layers(self) -> int:
        """Number of leading layers that write a KV cache of their own."""
        return self.layers - self.kv_shared_layers

    def attention(self, layer: int) -> AttentionConfig:
        """Attention of `layer`."""
        return self.attention_of(self.layer_types[layer])

    def attention_of(self, layer_type: LayerType) -> AttentionConfig:
        """Attention of all layers of `layer_type`."""
        return self.sliding if layer_type == "sliding_attention" else self.full

    def mlp_width(self, layer: int) -> int:
        """Inner width of the MLP of `layer`: doubled on KV-sharing layers where `use_double_wide_mlp` says so."""
        doubled = self.double_wide_mlp and 0 < self.own_kv_layers <= layer
        return self.intermediate_size * (2 if doubled else 1)

    def last_own_layer(self, layer_type: LayerType) -> int:
        """The last layer of `layer_type` that writes a cache: KV-sharing layers and the drafter read it."""
        return max(layer for layer in range(self.own_kv_layers) if self.layer_types[layer] == layer_type)

    def kv_source(self, layer: int) -> int:
        """The layer whose cache `layer` attends to."""
        return layer if layer < self.own_kv_layers else self.last_own_layer(self.layer_types[layer])


@dataclass(frozen=True)
class TargetConfig(DecoderConfig):
    """A Gemma 4 E2B- or E4B-like target (`Gemma4ForConditionalGeneration` or its text-only form)."""

    max_position_embeddings: int


@dataclass(frozen=True)
class DrafterConfig(DecoderConfig):
    """A Gemma 4 assistant (`Gemma4AssistantForCausalLM`): every layer reads the target's KV cache.

    `clusters` is None for a dense head (`use_ordered_embeddings: false`).
    """

    backbone_hidden_size: int
    clusters: int | None
    chosen_clusters: int

    @property
    def tokens_per_cluster(self) -> int:
        """Vocabulary entries in each cluster of the clustered head."""
        if self.clusters is None:
            raise ValueError("a dense head has no clusters")
        return self.vocab_size // self.clusters


def read_target_config(raw: Mapping[str, Any], where: str) -> TargetConfig:
    """Target configuration from the contents of its `config.json`; `where` names the file in errors.

    Raises:
        UserError: not a Gemma 4 target, or one of a kind that cannot be exported.
    """
    _refuse_quantized(raw, where)
    model_type = raw.get("model_type")
    if model_type == "gemma4_assistant":
        raise UserError(f"{where}: this is an MTP drafter (gemma4_assistant), expected a target: give the target first")
    if model_type not in ("gemma4", "gemma4_text"):
        raise UserError(
            f"{where}: {_named(model_type)}, expected 'gemma4': only E2B, E4B and fine-tunes of them can be exported"
        )
    text = raw.get("text_config", raw)
    if not isinstance(text, Mapping):
        raise UserError(f"{where}: text_config is not an object")
    for key in ("image_token_id", "audio_token_id"):
        if not isinstance(raw.get(key, 0), int | None):
            raise UserError(f"{where}: {key} is not a number")
    common = _decoder_fields(text, where)
    if not common["kv_shared_layers"] or not common["ple_dim"]:
        raise UserError(
            f"{where}: no KV-sharing layers or no per-layer embeddings (31B and 12B are built so);"
            " only E2B- and E4B-like targets can be exported"
        )
    config = TargetConfig(**common, max_position_embeddings=_positive(text, "max_position_embeddings", where, 131_072))
    for layer_type in LAYER_TYPES:
        if layer_type not in config.layer_types[: config.own_kv_layers]:
            raise UserError(f"{where}: none of the first {config.own_kv_layers} layers is a {layer_type} layer with KV")
    return config


def read_drafter_config(raw: Mapping[str, Any], where: str) -> DrafterConfig:
    """Drafter configuration from the contents of its `config.json`; `where` names the file in errors.

    Raises:
        UserError: not a Gemma 4 assistant, or one that cannot be exported.
    """
    _refuse_quantized(raw, where)
    model_type = raw.get("model_type")
    if model_type != "gemma4_assistant":
        hint = "this is a target" if model_type in ("gemma4", "gemma4_text") else _named(model_type)
        raise UserError(f"{where}: {hint}, expected an MTP drafter ('gemma4_assistant'): give the drafter second")
    text = raw.get("text_config")
    if not isinstance(text, Mapping):
        raise UserError(f"{where}: text_config is missing or not an object")
    common = _decoder_fields({**text, "num_kv_shared_layers": text.get("num_hidden_layers")}, where)
    if common["ple_dim"] or common["double_wide_mlp"]:
        raise UserError(f"{where}: per-layer embeddings or a double-wide MLP, which no Gemma 4 assistant has")
    clusters = _positive(raw, "num_centroids", where, 2048) if raw.get("use_ordered_embeddings", False) else None
    chosen = _positive(raw, "centroid_intermediate_top_k", where, 32)
    if clusters is not None and (common["vocab_size"] % clusters or chosen > clusters):
        raise UserError(
            f"{where}: num_centroids {clusters} must divide vocab_size {common['vocab_size']}"
            f" and be at least centroid_intermediate_top_k {chosen}"
        )
    return DrafterConfig(
        **common,
        backbone_hidden_size=_positive(raw, "backbone_hidden_size", where, 1536),
        clusters=clusters,
        chosen_clusters=chosen,
    )


def check_pair(target: TargetConfig, drafter: DrafterConfig, where: str) -> None:
    """Refuse a drafter that was made for another target; `where` names the drafter's file.

    Raises:
        UserError: naming the first property in which the two differ.
    """
    pairs: list[tuple[str, object, object]] = [
        ("backbone_hidden_size", drafter.backbone_hidden_size, target.hidden_size),
        ("kinds of layer_types", sorted(set(drafter.layer_types)), sorted(set(target.layer_types))),
    ]
    for layer_type in sorted(set(drafter.layer_types)):
        own, theirs = drafter.attention_of(layer_type), target.attention_of(layer_type)
        pairs += [
            (f"{layer_type} head_dim", own.head_dim, theirs.head_dim),
            (f"{layer_type} num_key_value_heads", own.kv_heads, theirs.kv_heads),
            (f"{layer_type} rope_theta", own.rope_theta, theirs.rope_theta),
            (f"{layer_type} rotated pairs", own.rotated_pairs, theirs.rotated_pairs),
            (f"{layer_type} window", own.window, theirs.window),
        ]
    for name, found, expected in pairs:
        if found != expected:
            raise UserError(
                f"{where}: {name} is {found}, but the target has {expected}: this drafter belongs to another target"
            )
    if drafter.vocab_size != target.vocab_size:
        change = "added" if target.vocab_size > drafter.vocab_size else "removed"
        raise UserError(
            f"{where}: vocab_size is {drafter.vocab_size}, but the target has {target.vocab_size}: tokens were {change}"
            " when the target was fine-tuned, and the drafter can only draft those of the base model; fine-tune with"
            f" the tokens that Gemma reserves (<unused0>, ...), or bring the target back to {drafter.vocab_size} with"
            " resize_token_embeddings() if the others are never used"
        )


def _decoder_fields(text: Mapping[str, Any], where: str) -> dict[str, Any]:
    if text.get("enable_moe_block"):
        raise UserError(f"{where}: a mixture of experts (26B-A4B); only E2B- and E4B-like targets can be exported")
    if text.get("attention_k_eq_v"):
        raise UserError(f"{where}: attention_k_eq_v is set (31B); only E2B- and E4B-like targets can be exported")
    expectations = {
        "hidden_activation": ("gelu_pytorch_tanh", {"gelu_pytorch_tanh"}),
        "attention_bias": (False, {False}),
        "use_bidirectional_attention": (None, {None, "vision"}),
    }
    for key, (default, accepted) in expectations.items():
        if (found := text.get(key, default)) not in accepted:
            raise UserError(f"{where}: {key} is {found!r}, expected {default!r}")

    layers = _positive(text, "num_hidden_layers", where)
    layer_types = _layer_types(text, layers, where)
    query_heads = _positive(text, "num_attention_heads", where)
    shared = text.get("num_kv_shared_layers", 0)
    if not isinstance(shared, int) or not 0 <= shared <= layers:
        raise UserError(f"{where}: num_kv_shared_layers is {shared!r}, expected 0 to {layers}")
    attention = {layer_type: _attention(text, layer_type, layer_types, where) for layer_type in LAYER_TYPES}
    for layer_type, config in attention.items():
        if query_heads % config.kv_heads:
            raise UserError(f"{where}: {query_heads} query heads are no multiple of {config.kv_heads} in {layer_type}")
    return {
        "vocab_size": _positive(text, "vocab_size", where),
        "hidden_size": _positive(text, "hidden_size", where),
        "intermediate_size": _positive(text, "intermediate_size", where),
        "double_wide_mlp": bool(text.get("use_double_wide_mlp", False)),
        "layer_types": layer_types,
        "query_heads": query_heads,
        "sliding": attention["sliding_attention"],
        "full": attention["full_attention"],
        "kv_shared_layers": shared,
        "rms_norm_eps": float(text.get("rms_norm_eps", 1e-6)),
        "final_logit_softcapping": text.get("final_logit_softcapping"),
        "ple_dim": int(text.get("hidden_size_per_layer_input", 256) or 0),
        "ple_vocab_size": int(text.get("vocab_size_per_layer_input", 262_144) or 0),
    }


def _layer_types(text: Mapping[str, Any], layers: int, where: str) -> tuple[LayerType, ...]:
    found = text.get("layer_types")
    if found is None:
        period = _DEFAULT_SLIDING_LAYERS_PER_FULL + 1
        found = [LAYER_TYPES[(layer + 1) % period == 0 or layer == layers - 1] for layer in range(layers)]
    if not isinstance(found, list) or len(found) != layers or not set(found) <= set(LAYER_TYPES):
        raise UserError(f"{where}: layer_types must name {layers} layers, each one of {', '.join(LAYER_TYPES)}")
    return cast("tuple[LayerType, ...]", tuple(found))


def _attention(
    text: Mapping[str, Any], layer_type: LayerType, layer_types: tuple[LayerType, ...], where: str
) -> AttentionConfig:
    full = layer_type == "full_attention"
    head_dim = _positive(text, "head_dim", where, 256)
    if full and "per_layer_config" in text:
        # transformers >= 5.22 writes head sizes layer by layer; older configs say `global_head_dim`.
        # Its keys are layer numbers, zero-padded to equal length.
        overrides = {int(layer): values for layer, values in (text["per_layer_config"] or {}).items()}
        dims = {
            overrides.get(layer, {}).get("head_dim", head_dim)
            for layer, found in enumerate(layer_types)
            if found == layer_type
        }
        if len(dims) > 1:
            raise UserError(f"{where}: per_layer_config gives the full-attention layers different head_dim: {dims}")
        head_dim = dims.pop() if dims else head_dim
    elif full:
        head_dim = _positive(text, "global_head_dim", where, 512)
    rope = (text.get("rope_parameters") or _DEFAULT_ROPE).get(layer_type)
    if not isinstance(rope, Mapping):
        raise UserError(f"{where}: rope_parameters has no entry for {layer_type}")
    expected = "proportional" if full else "default"
    if (rope_type := rope.get("rope_type")) not in (expected, "default"):
        raise UserError(f"{where}: rope_type of {layer_type} is {rope_type!r}, expected {expected!r}")
    if rope.get("factor", 1.0) != 1.0:
        raise UserError(f"{where}: rope factor of {layer_type} is {rope['factor']}, expected 1")
    rotated = head_dim // 2
    if rope_type == "proportional":
        rotated = int(float(rope.get("partial_rotary_factor", 1.0)) * head_dim // 2)
    return AttentionConfig(
        head_dim=head_dim,
        kv_heads=_positive(text, "num_key_value_heads", where),
        rope_theta=float(rope["rope_theta"]),
        rotated_pairs=rotated,
        window=None if full else _positive(text, "sliding_window", where, 512),
    )


def _named(model_type: object) -> str:
    known = _OTHER_MODELS.get(str(model_type))
    return f"model_type is {model_type!r}" + (f" ({known})" if known else "")


def _refuse_quantized(raw: Mapping[str, Any], where: str) -> None:
    quantization = raw.get("quantization_config") or (raw.get("text_config") or {}).get("quantization_config")
    if quantization:
        method = quantization.get("quant_method", "unknown")
        raise UserError(
            f"{where}: a quantized checkpoint (quant_method {method!r}); expected bf16, fp16 or fp32 weights:"
            " use the unquantized release"
        )


def _positive(source: Mapping[str, Any], key: str, where: str, default: int | None = None) -> int:
    value = source.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        found = "missing" if value is None else repr(value)
        raise UserError(f"{where}: {key} is {found}, expected a positive whole number")
    return value
