"""What a pair can be widened to, and the `config.json` of both wide models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gemma_mtp.export.checkpoint.config import LAYER_TYPES, DecoderConfig, DrafterConfig, TargetConfig
from gemma_mtp.export.checkpoint.read_config import read_drafter_config, read_target_config
from gemma_mtp.runtime.errors import UserError


@dataclass(frozen=True)
class Widths:
    """Sizes of target and drafter; the defaults are those of gemma-4-E2B-it and its assistant.

    `mlp` is the MLP's width in KV-producing layers; KV-sharing ones have twice as much where `double_wide_mlp` is 1.
    Of more `kv_heads` than the small pair has, several are the same.
    The sliding window is none of them: it decides what is computed, so it stays.
    """

    hidden: int = 1536
    mlp: int = 6144
    layers: int = 35
    kv_shared_layers: int = 20
    sliding_per_full: int = 4
    double_wide_mlp: int = 1
    query_heads: int = 8
    kv_heads: int = 1
    head_dim: int = 256
    global_head_dim: int = 512
    ple: int = 256
    vocab: int = 262_144
    max_positions: int = 131_072
    drafter_hidden: int = 256
    drafter_mlp: int = 2048
    drafter_query_heads: int = 4
    centroids: int = 2048
    top_k: int = 32


E2B = Widths()
E4B = Widths(hidden=2560, mlp=10240, layers=42, kv_shared_layers=18, sliding_per_full=5, double_wide_mlp=0, kv_heads=2)
# Every part grows, but for the drafter's heads, so that tests see each rule at work in seconds; factors are no powers
# of two where rules differ for those.
MODERATE = Widths(
    hidden=384,
    mlp=512,
    layers=20,
    kv_shared_layers=10,
    query_heads=8,
    head_dim=64,
    global_head_dim=128,
    ple=32,
    vocab=8192,
    max_positions=4096,
    drafter_hidden=128,
    drafter_mlp=384,
    centroids=512,
    top_k=32,
)
# The same with what is E4B's own: its pattern of layers, two kv heads, one width of MLP.
MODERATE_E4B = replace(
    MODERATE, mlp=768, layers=24, kv_shared_layers=12, sliding_per_full=5, double_wide_mlp=0, kv_heads=2
)


def wide_target_json(small: Mapping[str, Any], widths: Widths) -> dict[str, Any]:
    """`config.json` of the wide target from the small one's, a `Gemma4ForConditionalGeneration`."""
    pattern = [LAYER_TYPES[0]] * widths.sliding_per_full + [LAYER_TYPES[1]]
    if widths.layers % len(pattern):
        raise UserError(f"--layers: {widths.layers}, expected a multiple of {len(pattern)} (--sliding-per-full + 1)")
    text = {
        **_common_text(small["text_config"], widths),
        "hidden_size": widths.hidden,
        "hidden_size_per_layer_input": widths.ple,
        "intermediate_size": widths.mlp,
        "layer_types": pattern * (widths.layers // len(pattern)),
        "num_attention_heads": widths.query_heads,
        "num_hidden_layers": widths.layers,
        "num_kv_shared_layers": widths.kv_shared_layers,
        "use_double_wide_mlp": bool(widths.double_wide_mlp),
        "vocab_size_per_layer_input": widths.vocab,
    }
    return {**small, "text_config": text}


def wide_drafter_json(small: Mapping[str, Any], widths: Widths) -> dict[str, Any]:
    """`config.json` of the wide drafter from the small one's; it keeps its layers."""
    text = {
        **_common_text(small["text_config"], widths),
        "hidden_size": widths.drafter_hidden,
        "intermediate_size": widths.drafter_mlp,
        "num_attention_heads": widths.drafter_query_heads,
    }
    return {
        **small,
        "backbone_hidden_size": widths.hidden,
        "centroid_intermediate_top_k": widths.top_k,
        "num_centroids": widths.centroids,
        "text_config": text,
    }


def _common_text(small: Mapping[str, Any], widths: Widths) -> dict[str, Any]:
    # transformers writes head sizes layer by layer, Google's files as `global_head_dim`, which fits any number of them.
    text = {key: value for key, value in small.items() if key != "per_layer_config"}
    return {
        **text,
        "global_head_dim": widths.global_head_dim,
        "head_dim": widths.head_dim,
        "max_position_embeddings": widths.max_positions,
        "num_key_value_heads": widths.kv_heads,
        "vocab_size": widths.vocab,
    }


def wide_target_config(small: TargetConfig, wide_json: Mapping[str, Any]) -> TargetConfig:
    """The wide target's configuration.

    Raises:
        UserError: it cannot compute what the small one does.
    """
    wide = read_target_config(wide_json, "wide target")
    _check_decoder(small, wide, "wide target")
    _at_least("wide target", "--ple", wide.ple_dim, small.ple_dim)
    for layer_type in LAYER_TYPES:
        found = layer_sources(small, wide)[wide.last_own_layer(layer_type)]
        if found != small.last_own_layer(layer_type):
            raise UserError(
                f"--layers: the last {layer_type} layer with KV does not fall on the wide target's last one"
            )
    return wide


def wide_drafter_config(small: DrafterConfig, wide_json: Mapping[str, Any]) -> DrafterConfig:
    """The wide drafter's configuration.

    Raises:
        UserError: it cannot compute what the small one does.
    """
    wide = read_drafter_config(wide_json, "wide drafter")
    _check_decoder(small, wide, "wide drafter")
    if small.clusters is None or wide.clusters is None:
        raise UserError("small drafter: has a dense head; only clustered ones (use_ordered_embeddings) can be widened")
    if wide.chosen_clusters % small.chosen_clusters:
        raise UserError(f"--top-k: {wide.chosen_clusters}, expected a multiple of the small {small.chosen_clusters}")
    replicas = wide.chosen_clusters // small.chosen_clusters
    _at_least("wide drafter", "--centroids", wide.clusters, replicas * small.clusters)
    _at_least("wide drafter", "tokens per centroid", wide.tokens_per_cluster, -(-small.tokens_per_cluster // replicas))
    return wide


def layer_sources(small: DecoderConfig, wide: DecoderConfig) -> list[int | None]:
    """For each wide layer the small layer that it carries; None for an added one.

    Order, types and KV sharing are kept. Matching from the back puts the last KV-producing layers on the last ones:
    KV-sharing layers and the drafter read those.

    Raises:
        UserError: a small layer finds no place.
    """
    sources: list[int | None] = [None] * wide.layers
    place = wide.layers
    for layer in reversed(range(small.layers)):
        kind = small.layer_types[layer], layer < small.own_kv_layers
        places = [p for p in range(place) if (wide.layer_types[p], p < wide.own_kv_layers) == kind]
        if not places:
            raise UserError(
                f"--layers: {wide.layers} of which {wide.kv_shared_layers} share KV have no place for layer {layer}"
            )
        place = places[-1]
        sources[place] = layer
    return sources


def _check_decoder(small: DecoderConfig, wide: DecoderConfig, where: str) -> None:
    for name, found, least in (
        ("hidden width", wide.hidden_size, small.hidden_size),
        ("MLP width", wide.intermediate_size, small.intermediate_size),
        ("number of query heads", wide.query_heads, small.query_heads),
        ("--vocab", wide.vocab_size, small.vocab_size),
    ):
        _at_least(where, name, found, least)
    for layer_type in LAYER_TYPES:
        theirs, own = small.attention_of(layer_type), wide.attention_of(layer_type)
        stride = own.head_dim / theirs.head_dim
        if own.head_dim % theirs.head_dim or own.rotated_pairs != theirs.rotated_pairs * stride:
            raise UserError(
                f"{where}: head size {own.head_dim} of {layer_type}, expected a multiple of {theirs.head_dim}"
                " with the same share of rotated pairs"
            )
        if own.kv_heads % theirs.kv_heads:
            raise UserError(f"{where}: {own.kv_heads} kv heads, expected a multiple of {theirs.kv_heads}")


def _at_least(where: str, name: str, found: int, least: int) -> None:
    if found < least:
        raise UserError(f"{where}: {name} is {found}, expected at least {least}")
