"""Every weight of every model: its name, shape, role and where in the checkpoint it comes from.

One list serves tracing (shapes), checking (a checkpoint must hold exactly these) and binding (roles decide how a
recipe may store a weight).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from ...runtime.bundle.names import (
    HEAD_ROWS,
    HEAD_SCALES,
    HEAD_TOKENS,
    INVERSE_ORDERING,
    ROPE_STRIDE,
    ROPE_TABLES,
)
from .config import DecoderConfig, DrafterConfig, TargetConfig

# The embedding, and the head where a checkpoint has its own.
EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"
CENTROIDS = "masked_embedding.centroids.weight"
TOKEN_ORDERING = "masked_embedding.token_ordering"


class Role(Enum):
    """How a graph uses a weight."""

    LINEAR = "linear"  # right side of a FULLY_CONNECTED, [out, in]
    TABLE = "table"  # rows of an EMBEDDING_LOOKUP
    GATHERED = "gathered"  # rows of a GATHER, which copies codes as they are; their scales are a weight of their own
    SCALES = "scales"  # of the rows of a GATHERED weight
    EXACT = "exact"  # norms, scalars, rotary tables: stay float32
    INDEX = "index"  # token ids and places: int32, never quantized


@dataclass(frozen=True)
class Weight:
    """A weight input of a traced graph; float32, or int32 where `role` is INDEX.

    `source` is the checkpoint tensor it is made from and has `source_shape`; None if it follows from the configuration
    alone or, where `role` is SCALES, from how the rows are stored.
    """

    name: str
    shape: tuple[int, ...]
    role: Role
    source: str | None
    source_shape: tuple[int, ...]


def head_name(config: DecoderConfig) -> str:
    """The weight `[V, hidden]` that makes logits: the checkpoint's own head, or the embedding that it is tied to."""
    return HEAD if config.own_head else EMBEDDING


def _plain(name: str, shape: tuple[int, ...], role: Role) -> Weight:
    return Weight(name, shape, role, name, shape)


def _rope_tables(config: DecoderConfig, positions: int) -> Iterator[Weight]:
    """Two tables a layer type, whose lengths depend on the model alone: see `rope_table` in values.py."""
    rows = (ROPE_STRIDE, -(-positions // ROPE_STRIDE))
    for layer_type in sorted(set(config.layer_types)):
        for name, length in zip(ROPE_TABLES[layer_type], rows, strict=True):
            shape = (length, 2 * config.attention_of(layer_type).rotated_pairs)
            yield Weight(name, shape, Role.EXACT, None, shape)


def _layer(config: DecoderConfig, layer: int, *, kv: bool, output: bool) -> Iterator[Weight]:
    """Weights of one layer: its KV projections where `kv`, everything that makes its output where `output`."""
    prefix, hidden, attention = f"layers.{layer}.", config.hidden_size, config.attention(layer)
    yield _plain(prefix + "input_layernorm.weight", (hidden,), Role.EXACT)
    if kv:
        kv_width = attention.kv_heads * attention.head_dim
        yield _plain(prefix + "self_attn.k_proj.weight", (kv_width, hidden), Role.LINEAR)
        yield _plain(prefix + "self_attn.v_proj.weight", (kv_width, hidden), Role.LINEAR)
        yield _plain(prefix + "self_attn.k_norm.weight", (attention.head_dim,), Role.EXACT)
    if not output:
        return
    query_width, mlp_width = config.query_heads * attention.head_dim, config.mlp_width(layer)
    yield _plain(prefix + "self_attn.q_proj.weight", (query_width, hidden), Role.LINEAR)
    yield _plain(prefix + "self_attn.q_norm.weight", (attention.head_dim,), Role.EXACT)
    yield _plain(prefix + "self_attn.o_proj.weight", (hidden, query_width), Role.LINEAR)
    yield _plain(prefix + "mlp.gate_proj.weight", (mlp_width, hidden), Role.LINEAR)
    yield _plain(prefix + "mlp.up_proj.weight", (mlp_width, hidden), Role.LINEAR)
    yield _plain(prefix + "mlp.down_proj.weight", (hidden, mlp_width), Role.LINEAR)
    for norm in ("post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"):
        yield _plain(prefix + norm + ".weight", (hidden,), Role.EXACT)
    if config.ple_dim:
        yield _plain(prefix + "per_layer_input_gate.weight", (config.ple_dim, hidden), Role.LINEAR)
        yield _plain(prefix + "per_layer_projection.weight", (hidden, config.ple_dim), Role.LINEAR)
        yield _plain(prefix + "post_per_layer_input_norm.weight", (hidden,), Role.EXACT)
    # Of the rank it is multiplied at: LiteRT's GPU backend refuses to reshape a constant.
    yield Weight(prefix + "layer_scalar", (1, 1, 1), Role.EXACT, prefix + "layer_scalar", (1,))


def _per_layer_input(config: TargetConfig) -> Iterator[Weight]:
    width = config.layers * config.ple_dim
    yield _plain("per_layer_model_projection.weight", (width, config.hidden_size), Role.LINEAR)
    yield _plain("per_layer_projection_norm.weight", (config.ple_dim,), Role.EXACT)


def prefill_weights(config: TargetConfig) -> list[Weight]:
    """What prefill runs: the KV-producing layers, of the last one only keys and values."""
    last = config.own_kv_layers - 1
    layers = [weight for layer in range(last) for weight in _layer(config, layer, kv=True, output=True)]
    return [
        *_rope_tables(config, config.max_position_embeddings),
        *_per_layer_input(config),
        *layers,
        *_layer(config, last, kv=True, output=False),
    ]


def decode_weights(config: TargetConfig) -> list[Weight]:
    """What decode and verify run: the whole target but its embeddings, with its head."""
    own = config.own_kv_layers
    layers = [w for layer in range(config.layers) for w in _layer(config, layer, kv=layer < own, output=True)]
    return [
        *_rope_tables(config, config.max_position_embeddings),
        *_per_layer_input(config),
        *layers,
        _plain("norm.weight", (config.hidden_size,), Role.EXACT),
        _plain(head_name(config), (config.vocab_size, config.hidden_size), Role.LINEAR),
    ]


def embedder_weights(config: TargetConfig) -> list[Weight]:
    """The token embedding table."""
    return [_plain(EMBEDDING, (config.vocab_size, config.hidden_size), Role.TABLE)]


def per_layer_embedder_weights(config: TargetConfig) -> list[Weight]:
    """The per-layer embedding table, all layers of a token in one row."""
    shape = (config.ple_vocab_size, config.layers * config.ple_dim)
    return [_plain("embed_tokens_per_layer.weight", shape, Role.TABLE)]


def drafter_weights(config: DrafterConfig, positions: int, *, scatter: bool = False) -> list[Weight]:
    """The whole drafter, with its head in cluster order or dense; `positions` are the target's.

    With `scatter`, a clustered head has each cluster's token ids instead of each token's place.
    """
    hidden, backbone, vocabulary = config.hidden_size, config.backbone_hidden_size, config.vocab_size
    weights = [
        *_rope_tables(config, positions),
        _plain("pre_projection.weight", (hidden, 2 * backbone), Role.LINEAR),
        *(w for layer in range(config.layers) for w in _layer(config, layer, kv=False, output=True)),
        _plain("norm.weight", (hidden,), Role.EXACT),
        _plain("post_projection.weight", (backbone, hidden), Role.LINEAR),
    ]
    table = (vocabulary, hidden)
    if config.clusters is None:
        return [*weights, _plain(head_name(config), table, Role.LINEAR)]
    size = config.tokens_per_cluster
    order = Weight(INVERSE_ORDERING, (vocabulary,), Role.INDEX, TOKEN_ORDERING, (vocabulary,))
    if scatter:
        order = Weight(HEAD_TOKENS, (config.clusters, size), Role.INDEX, TOKEN_ORDERING, (vocabulary,))
    return [
        *weights,
        _plain(CENTROIDS, (config.clusters, hidden), Role.LINEAR),
        Weight(HEAD_ROWS, (config.clusters, size * hidden), Role.GATHERED, head_name(config), table),
        Weight(HEAD_SCALES, (config.clusters, size), Role.SCALES, None, (config.clusters, size)),
        order,
    ]
