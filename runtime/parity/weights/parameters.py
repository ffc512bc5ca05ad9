"""What a bundle must hold: every parameter of transformers' two models, and the tables that follow from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ...bundle.names import (
    EMBEDDER,
    HEAD_ROWS,
    HEAD_TOKENS,
    INVERSE_ORDERING,
    MTP_DRAFTER,
    PER_LAYER_EMBEDDER,
    PREFILL_DECODE,
    ROPE_STRIDE,
    ROPE_TABLES,
)
from ..oracle.oracle import Oracle
from ..oracle.streaming import WeightSource
from .codes import Codes

HEAD, EMBEDDING, PER_LAYER_EMBEDDING = "lm_head.weight", "embed_tokens.weight", "embed_tokens_per_layer.weight"
CENTROIDS, TOKEN_ORDERING = "masked_embedding.centroids.weight", "masked_embedding.token_ordering"

_KV = re.compile(r"layers\.(\d+)\.self_attn\.(?:k_proj|v_proj|k_norm|v_norm)\.")
# Of float32; what two ways to compute a product may differ by, relative to the row's largest value.
_PRODUCT = 2.0**-20
_ULP = 2.0**-23


def _whole_row(row: int) -> str:
    return f"row {row}"


@dataclass(frozen=True)
class Parameter:
    """One parameter, and where a bundle keeps it.

    Attributes:
        model: the bundle's model, such as `prefill_decode`.
        names: what its constant may be called there.
        shape: of the parameter; None for a length that the bundle chooses.
        read: rows `start`..`stop - 1`, float32, or integers as they are.
        bound: largest absolute deviation that plain values may have, `[rows, ...]` or broadcast to it, from the
            expected rows and the first one's number; None where they must be equal bit for bit.
        row: what a row is called.
        codes: the same rows as the codes that the checkpoint holds; None where it holds values.
    """

    model: str
    names: tuple[str, ...]
    shape: tuple[int | None, ...]
    read: Callable[[int, int], torch.Tensor]
    bound: Callable[[torch.Tensor, int], torch.Tensor] | None = None
    row: Callable[[int], str] = _whole_row
    codes: Callable[[int, int], Codes] | None = None

    @property
    def name(self) -> str:
        """The first of its names."""
        return self.names[0]


def expected_parameters(oracle: Oracle, *, scatters: bool) -> list[Parameter]:
    """Every parameter of both models that a bundle must hold, one for the CPU alone where the drafter `scatters`.

    Left out is what nothing computes with: keys and values of KV-sharing layers, which older classes keep, and the
    drafter's embedding, whose place the target's takes.
    """
    return [*_target(oracle), *_drafter(oracle, scatters)]


def _target(oracle: Oracle) -> Iterator[Parameter]:
    source, shapes = oracle.target_weights, _shapes(oracle.target)
    models = {EMBEDDING: EMBEDDER, PER_LAYER_EMBEDDING: PER_LAYER_EMBEDDER}
    for full, stored in oracle.target_names.items():
        name = full.removeprefix("model.")
        found = _KV.match(name)
        if found and int(found[1]) >= oracle.own_layers:
            continue
        names = (HEAD, EMBEDDING) if name == HEAD else (name,)
        row = _token if name in (HEAD, EMBEDDING, PER_LAYER_EMBEDDING) else _whole_row
        yield _stored(models.get(name, PREFILL_DECODE), names, shapes[full], source, stored, row)
    yield from _rotary(PREFILL_DECODE, oracle.target.model.rotary_emb)


def _drafter(oracle: Oracle, scatters: bool) -> Iterator[Parameter]:
    source, shapes = oracle.drafter_weights, _shapes(oracle.drafter)
    clustered = TOKEN_ORDERING in oracle.drafter_names
    for full, stored in oracle.drafter_names.items():
        name = full.removeprefix("model.")
        found = _KV.match(name)
        if name in (EMBEDDING, TOKEN_ORDERING) or found or (name == HEAD and clustered):
            continue
        row = {HEAD: _token, CENTROIDS: _cluster}.get(name, _whole_row)
        names = (HEAD, EMBEDDING) if name == HEAD else (name,)
        yield _stored(MTP_DRAFTER, names, shapes[full], source, stored, row)
    if clustered:
        yield from _clustered_head(oracle)
        yield _token_order(oracle, scatters)
    yield from _rotary(MTP_DRAFTER, oracle.drafter.model.rotary_emb)


def _clustered_head(oracle: Oracle) -> Iterator[Parameter]:
    """As Gemma4AssistantMaskedEmbedder reads it: place i of `token_ordering` belongs to cluster i // size."""
    head: Any = oracle.drafter.masked_embedding
    source, stored = oracle.drafter_weights, oracle.drafter_names[HEAD]
    table, ordering = oracle.drafter.lm_head.weight.detach(), head.token_ordering.long()
    size = len(ordering) // head.centroids.weight.shape[0]

    def row(place: int) -> str:
        return f"cluster {place // size}, token {int(ordering[place])}"

    def codes(start: int, stop: int) -> Codes:
        return source.codes(stored, ordering[start:stop].tolist())

    yield Parameter(
        MTP_DRAFTER,
        (HEAD_ROWS,),
        tuple(table.shape),
        lambda start, stop: table[ordering[start:stop]],
        _product_bound if source.is_computed(stored) else None,
        row,
        codes if source.trained_bits(stored) else None,
    )


def _token_order(oracle: Oracle, scatters: bool) -> Parameter:
    """Each cluster's token ids, or each token's place in cluster order."""
    head: Any = oracle.drafter.masked_embedding
    ordering = head.token_ordering.long()
    if scatters:
        tokens = ordering.reshape(head.centroids.weight.shape[0], -1)
        return Parameter(
            MTP_DRAFTER, (HEAD_TOKENS,), tuple(tokens.shape), lambda start, stop: tokens[start:stop], None, _cluster
        )
    places = torch.empty_like(ordering)
    places[ordering] = torch.arange(len(ordering))
    return Parameter(
        MTP_DRAFTER, (INVERSE_ORDERING,), tuple(places.shape), lambda start, stop: places[start:stop], None, _token
    )


def _rotary(model: str, rotary: Any) -> Iterator[Parameter]:
    """transformers' cosines, then sines, of the pairs that turn, by position.

    The same float32 angles give sines that differ in the last bit between vector and scalar code; a frequency that
    differs in its last bit, or an angle that is rounded, moves an angle by so much of itself.
    """
    for layer_type in rotary.layer_types:
        fine, coarse = ROPE_TABLES[layer_type]
        for name, step in ((fine, 1), (coarse, ROPE_STRIDE)):
            yield _rotary_table(model, rotary, layer_type, name, step)


def _rotary_table(model: str, rotary: Any, layer_type: str, name: str, step: int) -> Parameter:
    """The table of every `step`-th position."""
    frequencies = getattr(rotary, f"{layer_type}_inv_freq")
    pairs = int((frequencies != 0).sum())

    def positions(start: int, stop: int) -> torch.Tensor:
        return torch.arange(start * step, stop * step, step)

    def read(start: int, stop: int) -> torch.Tensor:
        cos, sin = rotary(torch.zeros(1), positions(start, stop)[None], layer_type)  # [1, T, head_dim]
        return torch.cat((cos[0, :, :pairs], sin[0, :, :pairs]), dim=-1)

    def bound(expected: torch.Tensor, start: int) -> torch.Tensor:
        angles = positions(start, start + len(expected))[:, None] * frequencies[:pairs]
        return _ULP * (1 + angles).repeat(1, 2)

    return Parameter(model, (name,), (None, 2 * pairs), read, bound, lambda row: f"position {row * step}")


def _stored(
    model: str,
    names: tuple[str, ...],
    shape: tuple[int, ...],
    source: WeightSource,
    stored: str,
    row: Callable[[int], str],
) -> Parameter:
    def read(start: int, stop: int) -> torch.Tensor:
        return source.read_rows(stored, start, stop)

    def codes(start: int, stop: int) -> Codes:
        return source.codes(stored, range(start, stop))

    bound = _product_bound if source.is_computed(stored) else None
    return Parameter(model, names, shape, read, bound, row, codes if source.trained_bits(stored) else None)


def _product_bound(expected: torch.Tensor, start: int) -> torch.Tensor:
    return _PRODUCT * expected.abs().reshape(len(expected), -1).amax(dim=1, keepdim=True)


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _token(row: int) -> str:
    return f"token {row}"


def _cluster(row: int) -> str:
    return f"cluster {row}"
