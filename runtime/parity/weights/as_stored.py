"""transformers' models on the weights that a bundle stores, dequantized.

Formats of few bits change what a model computes by more than any fault of a graph does. So the stages that run a
bundle compare it with transformers' models on its own weights, each of which the stage before has compared with the
checkpoint; what the format itself costs is `compare`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ...bundle.constants import Constant, ModelConstants
from ...bundle.names import EMBEDDER, HEAD_ROWS, MTP_DRAFTER, PER_LAYER_EMBEDDER, PREFILL_DECODE
from ..oracle.oracle import Oracle
from ..oracle.overlay import Overlay, Rows
from .gathered import with_rows
from .parameters import EMBEDDING, HEAD, TOKEN_ORDERING
from .stored import BITS, dequantized


def oracle_as_stored(oracle: Oracle, constants: Mapping[str, ModelConstants]) -> Oracle:
    """`oracle` on the quantized weights in `constants`, by model; others stay the checkpoint's.

    Head and embedding are one tensor in most checkpoints and two in a bundle, so here they are two.
    """
    by_model = {model: _quantized(found) for model, found in constants.items()}
    target = {**by_model.get(PER_LAYER_EMBEDDER, {}), **by_model.get(PREFILL_DECODE, {})}
    if EMBEDDING in target:
        target[HEAD] = target.pop(EMBEDDING)
    head = oracle.target_names[f"{HEAD}"]
    source = oracle.target_weights
    if HEAD not in target:
        rows = oracle.target.lm_head.weight.shape[0]
        target[HEAD] = Rows(rows, lambda start, stop: source.read_rows(head, start, stop))
    target |= by_model.get(EMBEDDER, {})
    drafter = dict(by_model.get(MTP_DRAFTER, {}))
    if EMBEDDING in drafter:
        drafter[HEAD] = drafter.pop(EMBEDDING)
    if HEAD_ROWS in drafter:
        ordering = oracle.drafter_weights.read(TOKEN_ORDERING).long()
        table = torch.empty(len(ordering), oracle.drafter_config.get_text_config().hidden_size)
        table[ordering] = drafter[HEAD_ROWS].read(0, len(ordering)).reshape(table.shape)
        drafter[HEAD] = Rows(len(ordering), lambda start, stop: table[start:stop])
    return oracle.on(Overlay(source, target), Overlay(oracle.drafter_weights, drafter))


def _quantized(constants: ModelConstants) -> dict[str, Rows]:
    return {
        constant.name: _rows(constant)
        for constant in with_rows(constants).constants
        if constant.quantization is not None and constant.dtype in BITS
    }


def _rows(constant: Constant) -> Rows:
    return Rows(constant.shape[0], lambda start, stop: dequantized(constant, start, stop))
