"""The shipped small pair at E2B's sizes, computing what it computes: `python -m tests.benchmarks.widen OUT`.

What MTP gains depends on two things: what a pass costs, which is a matter of sizes, and how much is accepted, which
takes a trained pair. The widened pair has the small pair's text and drafts at the cost of E2B and its assistant.

How (h, d, p: small hidden, head and per-layer input sizes; H, D, P: wide ones):

- Vectors are padded with zeros, which lengthens the mean in an RMS norm: its result grows by sqrt(H / h). Token
  embeddings are multiplied by sqrt(H) instead of sqrt(h). So the residual stream as a whole grows by sqrt(H / h), the
  norms that add to it keep their weights, and those that read from it (and the per-layer gate, which reads it without
  a norm) divide by that factor.
- RoPE pair i of a head, dimensions i and i + d / 2, becomes pair i * D / d, which has the same frequency; q_norm and
  k_norm divide by sqrt(D / d). Values grow by that factor, and per-layer inputs by sqrt(P / p): both end in a norm.
- Where there are more kv heads, each small one is there several times, and its queries are shared out among the copies.
- Matrices are scaled by powers of two only, near the factors above, so that epsilon weighs in each norm as it did (at
  most twice or half as much). They stay exact in bfloat16; whatever does not is stored in float32.
- Added layers are zero, and so add nothing. Unused tokens and clusters copy rows that never win (fillers.py). A small
  cluster becomes as many as make the chosen ones match, which share its tokens.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import click
import torch

from gemma_mtp.export.checkpoint.config import AttentionConfig, DecoderConfig, DrafterConfig, TargetConfig
from gemma_mtp.export.checkpoint.files import Checkpoint
from gemma_mtp.export.checkpoint.pair import open_pair
from gemma_mtp.export.demo import SMALL_PAIR
from gemma_mtp.export.staging import staged_folder
from gemma_mtp.runtime.errors import UserError

from .fillers import Fillers, choose_fillers
from .shards import Axis, WideTensor, write_checkpoint
from .widths import (
    Widths,
    layer_sources,
    wide_drafter_config,
    wide_drafter_json,
    wide_target_config,
    wide_target_json,
)

_KEYS_AND_VALUES = ("self_attn.k_proj.weight", "self_attn.v_proj.weight")
# Axes and factor of a tensor.
Rule = tuple[tuple[Axis, ...], float]


def widen(small_target: Path, small_drafter: Path, widths: Widths, out: Path) -> None:
    """Write the pair widened to `widths` as `out`/target and `out`/drafter; `out` is new or empty.

    Raises:
        UserError: `widths` cannot hold the pair, or `out` is taken.
    """
    pair = open_pair(str(small_target), str(small_drafter))
    target_json = wide_target_json(pair.target.config, widths)
    drafter_json = wide_drafter_json(pair.drafter.config, widths)
    target = wide_target_config(pair.target_config, target_json)
    drafter = wide_drafter_config(pair.drafter_config, drafter_json)
    fillers = choose_fillers(small_target, small_drafter)
    with staged_folder(out) as staging:
        for name, checkpoint, config_json, tensors in (
            ("target", pair.target, target_json, target_tensors(pair.target, pair.target_config, target, fillers)),
            (
                "drafter",
                pair.drafter,
                drafter_json,
                drafter_tensors(pair.drafter, pair.drafter_config, drafter, fillers),
            ),
        ):
            (staging / name).mkdir()
            write_checkpoint(staging / name, tensors)
            (staging / name / "config.json").write_text(json.dumps(config_json, indent=2) + "\n", "utf-8")
            for path in sorted(checkpoint.folder.iterdir()):
                if path.name != "config.json" and ".safetensors" not in path.name:
                    shutil.copy(path, staging / name)


def target_tensors(
    checkpoint: Checkpoint, small: TargetConfig, wide: TargetConfig, fillers: Fillers
) -> Iterator[WideTensor]:
    """All tensors of the wide target."""
    prefix = checkpoint.prefix
    hidden = Axis.padded(small.hidden_size, wide.hidden_size)
    vocabulary = Axis.padded(small.vocab_size, wide.vocab_size)
    ple = Axis.padded(small.ple_dim, wide.ple_dim)
    # Slices of one layer each, side by side.
    places = [place for place, layer in enumerate(layer_sources(small, wide)) if layer is not None]
    slices = Axis(
        wide.layers * wide.ple_dim, torch.cat([place * wide.ple_dim + torch.arange(small.ple_dim) for place in places])
    )
    rows = _stored(checkpoint.read("embed_tokens.weight"))
    yield WideTensor(f"{prefix}embed_tokens.weight", rows, (vocabulary, hidden), fillers.target_token)
    rows = _stored(checkpoint.read("embed_tokens_per_layer.weight"))
    yield WideTensor(f"{prefix}embed_tokens_per_layer.weight", rows, (vocabulary, slices), fillers.target_token)
    rules = {
        "per_layer_model_projection.weight": ((slices, hidden), _power_of_two(_growth(small.ple_dim, wide.ple_dim))),
        "per_layer_projection_norm.weight": ((ple,), 1.0),
        "norm.weight": ((hidden,), 1 / _growth(small.hidden_size, wide.hidden_size)),
    }
    for name, (axes, factor) in rules.items():
        yield WideTensor(prefix + name, _stored(checkpoint.read(name) * factor), axes)
    yield from _layers(checkpoint, small, wide)


def drafter_tensors(
    checkpoint: Checkpoint, small: DrafterConfig, wide: DrafterConfig, fillers: Fillers
) -> Iterator[WideTensor]:
    """All tensors of the wide drafter."""
    prefix = checkpoint.prefix
    hidden = Axis.padded(small.hidden_size, wide.hidden_size)
    backbone = Axis.padded(small.backbone_hidden_size, wide.backbone_hidden_size)
    vocabulary = Axis.padded(small.vocab_size, wide.vocab_size)
    rows = _stored(checkpoint.read("embed_tokens.weight"))
    yield WideTensor(f"{prefix}embed_tokens.weight", rows, (vocabulary, hidden), fillers.drafter_token)

    # Token embeddings have grown with the target's residual stream; activations, which follow its norm, have not.
    stream = _growth(small.hidden_size, wide.hidden_size)
    embedding_factor = stream / _growth(small.backbone_hidden_size, wide.backbone_hidden_size)
    factors = torch.tensor([embedding_factor, stream]).repeat_interleave(small.backbone_hidden_size)
    both = Axis(2 * backbone.size, torch.cat((backbone.places, backbone.size + backbone.places)))
    projection = checkpoint.read("pre_projection.weight") * factors
    yield WideTensor("pre_projection.weight", _stored(projection), (hidden, both))
    yield WideTensor("post_projection.weight", _stored(checkpoint.read("post_projection.weight")), (backbone, hidden))
    yield WideTensor(f"{prefix}norm.weight", _stored(checkpoint.read("norm.weight") / stream), (hidden,))
    yield from _head(checkpoint, small, wide, fillers)
    yield from _layers(checkpoint, small, wide)


def _head(checkpoint: Checkpoint, small: DrafterConfig, wide: DrafterConfig, fillers: Fillers) -> Iterator[WideTensor]:
    """Centroids and `token_ordering`: each small cluster becomes a few that share its tokens, then come unused ones."""
    if small.clusters is None or wide.clusters is None:
        raise ValueError("a dense head has no clusters")
    replicas = wide.chosen_clusters // small.chosen_clusters
    used = replicas * small.clusters
    carried = torch.full((wide.clusters,), fillers.centroid)
    carried[:used] = torch.arange(small.clusters).repeat_interleave(replicas)
    clusters = Axis.padded(wide.clusters, wide.clusters)
    hidden = Axis.padded(small.hidden_size, wide.hidden_size)
    centroids = _stored(checkpoint.read("masked_embedding.centroids.weight"))[carried]
    yield WideTensor("masked_embedding.centroids.weight", centroids, (clusters, hidden))

    small_ordering = checkpoint.read("masked_embedding.token_ordering")
    members = small_ordering.view(small.clusters, -1)  # [clusters, tokens]
    ordering = torch.full((wide.clusters, wide.tokens_per_cluster), -1, dtype=small_ordering.dtype)
    for replica in range(replicas):
        share = members[:, replica::replicas]
        ordering[replica:used:replicas, : share.shape[1]] = share
    ordering[ordering < 0] = torch.arange(small.vocab_size, wide.vocab_size, dtype=ordering.dtype)
    tokens = Axis.padded(wide.vocab_size, wide.vocab_size)
    yield WideTensor("masked_embedding.token_ordering", ordering.view(-1), (tokens,))


def _layers(checkpoint: Checkpoint, small: DecoderConfig, wide: DecoderConfig) -> Iterator[WideTensor]:
    """All layers of a decoder."""
    for place, layer in enumerate(layer_sources(small, wide)):
        prefix, kind = f"{checkpoint.prefix}layers.{place}.", wide.layer_types[place]
        for name, (axes, factor) in _layer_rules(small, wide, place, layer).items():
            if layer is None:
                zero = torch.zeros([0] * len(axes), dtype=torch.bfloat16)
                yield WideTensor(prefix + name, zero, tuple(Axis.padded(0, axis.size) for axis in axes))
            else:
                values = checkpoint.read(f"layers.{layer}.{name}") * factor
                if name in _KEYS_AND_VALUES:
                    values = _copied(values, small.attention_of(kind).head_dim, wide.attention(place).kv_heads)
                yield WideTensor(prefix + name, _stored(values), axes)
        scalar = torch.ones(1) if layer is None else checkpoint.read(f"layers.{layer}.layer_scalar")
        yield WideTensor(f"{prefix}layer_scalar", _stored(scalar), (Axis.padded(1, 1),))


def _layer_rules(small: DecoderConfig, wide: DecoderConfig, place: int, layer: int | None) -> dict[str, Rule]:
    """Rules for the tensors of the wide layer `place`, which carries the small `layer` or is an added one."""
    attention = wide.attention(place)
    theirs = small.attention_of(wide.layer_types[place])
    hidden = Axis.padded(small.hidden_size, wide.hidden_size)
    head = _head_axis(theirs, attention)
    queries = _queries_axis(head, small, wide, theirs.kv_heads, attention.kv_heads)
    keys = _heads_axis(head, range(attention.kv_heads), attention.kv_heads)
    mlp = Axis.padded(small.mlp_width(layer) if layer is not None else 0, wide.mlp_width(place))
    stream = _growth(small.hidden_size, wide.hidden_size)
    values = _growth(theirs.head_dim, attention.head_dim)
    rules: dict[str, Rule] = {
        "input_layernorm.weight": ((hidden,), 1 / stream),
        "self_attn.q_proj.weight": ((queries, hidden), _power_of_two(values)),
        "self_attn.q_norm.weight": ((head,), 1 / values),
        "self_attn.o_proj.weight": ((hidden, queries), _power_of_two(stream / values)),
        "post_attention_layernorm.weight": ((hidden,), 1.0),
        "pre_feedforward_layernorm.weight": ((hidden,), 1 / stream),
        "mlp.gate_proj.weight": ((mlp, hidden), 1.0),
        "mlp.up_proj.weight": ((mlp, hidden), 1.0),
        "mlp.down_proj.weight": ((hidden, mlp), _power_of_two(stream)),
        "post_feedforward_layernorm.weight": ((hidden,), 1.0),
    }
    if place < wide.own_kv_layers:
        rules |= {
            "self_attn.k_proj.weight": ((keys, hidden), _power_of_two(values)),
            "self_attn.v_proj.weight": ((keys, hidden), _power_of_two(values)),
            "self_attn.k_norm.weight": ((head,), 1 / values),
        }
    if wide.ple_dim:
        ple, inputs = Axis.padded(small.ple_dim, wide.ple_dim), _growth(small.ple_dim, wide.ple_dim)
        rules |= {
            "per_layer_input_gate.weight": ((ple, hidden), 1 / stream),
            "per_layer_projection.weight": ((hidden, ple), _power_of_two(stream / inputs)),
            "post_per_layer_input_norm.weight": ((hidden,), 1.0),
        }
    return rules


def _head_axis(small: AttentionConfig, wide: AttentionConfig) -> Axis:
    """One head: rotary pair i becomes pair i * stride, as frequencies are `theta ** (-2i / head_dim)`."""
    pairs = torch.arange(small.head_dim // 2) * (wide.head_dim // small.head_dim)
    return Axis(wide.head_dim, torch.cat((pairs, pairs + wide.head_dim // 2)))


def _queries_axis(head: Axis, small: DecoderConfig, wide: DecoderConfig, kv_heads: int, wide_kv_heads: int) -> Axis:
    """All query heads: each stays with its kv head, or with a copy of it."""
    copies = wide_kv_heads // kv_heads
    group, wide_group = small.query_heads // kv_heads, wide.query_heads // wide_kv_heads
    # The wide groups of a kv head's copies lie side by side, so its queries fill one after the other.
    places = [kv * copies * wide_group + member for kv in range(kv_heads) for member in range(group)]
    return _heads_axis(head, places, wide.query_heads)


def _heads_axis(head: Axis, places: Sequence[int], count: int) -> Axis:
    """`count` heads, one behind the other, of which the small ones take `places`."""
    return Axis(count * head.size, torch.cat([place * head.size + head.places for place in places]))


def _copied(values: torch.Tensor, head_dim: int, kv_heads: int) -> torch.Tensor:
    """Rows of keys or values with each head as often, side by side, as it takes to have `kv_heads`."""
    heads = values.view(-1, head_dim, values.shape[1])
    return heads.repeat_interleave(kv_heads // len(heads), dim=0).reshape(-1, values.shape[1])


def _growth(small: int, wide: int) -> float:
    """By what an RMS-normed vector of `small` numbers grows when zeros make it `wide`."""
    return math.sqrt(wide / small)


def _power_of_two(factor: float) -> float:
    return 2.0 ** round(math.log2(factor))


def _stored(values: torch.Tensor) -> torch.Tensor:
    """As bfloat16 where it holds every value, else as float32."""
    rounded = values.bfloat16()
    return rounded if torch.equal(rounded.float(), values) else values


@click.command(help=__doc__)
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--target", type=click.Path(path_type=Path), default=SMALL_PAIR / "target", help="Small target.")
@click.option("--drafter", type=click.Path(path_type=Path), default=SMALL_PAIR / "drafter", help="Small drafter.")
def main(out: Path, target: Path, drafter: Path, **widths: int) -> None:
    started = time.monotonic()
    try:
        widen(target, drafter, Widths(**widths), out)
    except UserError as error:
        raise click.UsageError(str(error)) from error
    for name in ("target", "drafter"):
        size = sum(path.stat().st_size for path in (out / name).iterdir())
        click.echo(f"{out / name}: {size / 1e9:.2f} GB")
    click.echo(f"{time.monotonic() - started:.0f} s")


for _field in reversed(fields(Widths)):
    _option = click.option(f"--{_field.name.replace('_', '-')}", type=int, default=_field.default, show_default=True)
    main = _option(main)

if __name__ == "__main__":
    main()
