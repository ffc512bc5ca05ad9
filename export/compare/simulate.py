"""transformers' models on weights as a recipe would store them, without an export: what the weights alone cost."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ...quantize.formats import Storage
from ...quantize.tensors import dequantize, store
from ...runtime.bundle.names import EMBEDDER, HEAD_ROWS, MTP_DRAFTER, PER_LAYER_EMBEDDER, PREFILL_DECODE
from ...runtime.parity.oracle.oracle import Oracle
from ...runtime.parity.oracle.overlay import Overlay, Rows
from ...runtime.parity.oracle.streaming import WeightSource
from ..checkpoint.weights import HEAD, Role, Weight, head_name
from ..graphs.plan import ModelPlan
from ..graphs.storage import Stored


def simulated(oracle: Oracle, models: Mapping[str, ModelPlan], stored: Stored) -> Oracle:
    """`oracle` on the weights of `models`, stored so and opened again; read and quantized as they are used.

    Args:
        oracle: on the checkpoints that `models` come from.
        models: from `plan_models`.
        stored: from `plan_storage`.

    Raises:
        UserError: a tensor cannot be read.
    """
    target = {
        **_replaced(oracle.target_weights, models[PREFILL_DECODE], stored[PREFILL_DECODE]),
        **_replaced(oracle.target_weights, models[PER_LAYER_EMBEDDER], stored[PER_LAYER_EMBEDDER]),
        **_replaced(oracle.target_weights, models[EMBEDDER], stored[EMBEDDER]),
    }
    drafter = _replaced(oracle.drafter_weights, models[MTP_DRAFTER], stored[MTP_DRAFTER])
    return oracle.on(Overlay(oracle.target_weights, target), Overlay(oracle.drafter_weights, drafter))


def _replaced(source: WeightSource, plan: ModelPlan, stored: Mapping[str, Storage]) -> dict[str, Rows]:
    """By what transformers' models call each weight: head and embedding are two here, also where they are tied."""
    found = {}
    for weight in plan.weights.values():
        if weight.role not in (Role.LINEAR, Role.TABLE, Role.GATHERED) or weight.source is None:
            continue
        is_head = weight.name == HEAD_ROWS or (weight.name == head_name(plan.config) and weight.role is Role.LINEAR)
        found[HEAD if is_head else weight.source] = _as_stored(source, weight, stored[weight.name])
    return found


def _as_stored(source: WeightSource, weight: Weight, stored_as: Storage) -> Rows:
    name = weight.source
    assert name is not None

    def read(start: int, stop: int) -> torch.Tensor:
        if stored_as.algorithm == "kept":  # What the checkpoint's codes stand for.
            return source.read_rows(name, start, stop)
        values = source.read_rows(name, start, stop).numpy()
        return torch.from_numpy(dequantize(store(values, stored_as), stored_as, values.shape))

    return Rows(weight.source_shape[0], read)
