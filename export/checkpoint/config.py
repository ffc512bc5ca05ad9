"""Frozen configurations of target and drafter, and the check that the two belong together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ...runtime.errors import UserError

LayerType = Literal["sliding_attention", "full_attention"]
LAYER_TYPES: tuple[LayerType, LayerType] = ("sliding_attention", "full_attention")


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
