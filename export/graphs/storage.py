"""Which weight of which model is stored how: a recipe's rules applied to the models of a bundle."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from ...quantize.formats import FP32, INT8, Storage, kept
from ...quantize.recipes import Recipe, TensorName
from ...runtime.bundle.names import EMBEDDER, HEAD_ROWS, MTP_DRAFTER, PER_LAYER_EMBEDDER, PREFILL_DECODE
from ...runtime.errors import UserError
from ...runtime.gpu.check import GPU_MODELS
from ..checkpoint.config import DecoderConfig
from ..checkpoint.weights import CENTROIDS, EMBEDDING, HEAD, Role, Weight

Stored = dict[str, dict[str, Storage]]


class HasWeights(Protocol):
    """A model of a bundle, such as a ModelPlan: its configuration and its weights by name."""

    @property
    def config(self) -> DecoderConfig: ...

    @property
    def weights(self) -> Mapping[str, Weight]: ...


_LAYER = re.compile(r"layers\.(\d+)\.(.+)\.weight")
# What recipes call the rooms of a bundle, and the weights in them that belong to no layer.
_ROOMS = {PREFILL_DECODE: "target", MTP_DRAFTER: "drafter"}
_TABLES = {EMBEDDER: "embedder", PER_LAYER_EMBEDDER: "per_layer_embedder"}
_PLAIN = {
    EMBEDDING: "head",
    HEAD: "head",
    HEAD_ROWS: "head",
    CENTROIDS: "centroids",
    "pre_projection.weight": "pre_projection",
    "post_projection.weight": "post_projection",
    "per_layer_model_projection.weight": "per_layer.model_projection",
}
_IN_LAYER = {"self_attn.": "attention.", "mlp.": "mlp.", "per_layer_input_gate": "per_layer.input_gate"}
_IN_LAYER["per_layer_projection"] = "per_layer.projection"
CHOSEN = (Role.LINEAR, Role.TABLE, Role.GATHERED)


def tensor_name(model: str, config: DecoderConfig, weight: Weight) -> TensorName | None:
    """What recipes call `weight` of the bundle's `model`; None for one that is always exact."""
    if weight.role not in CHOSEN:
        return None
    if model in _TABLES:
        return TensorName(_TABLES[model])
    room = _ROOMS[model]
    found = _LAYER.fullmatch(weight.name)
    if not found:
        return TensorName(f"{room}.{_PLAIN[weight.name]}")
    layer, name = int(found[1]), found[2]
    for old, new in _IN_LAYER.items():
        if name.startswith(old):
            name = new + name.removeprefix(old)
            break
    kinds = {"own-kv" if layer < config.own_kv_layers else "shared-kv"}
    if config.mlp_width(layer) > config.intermediate_size:
        kinds.add("double-wide")
    return TensorName(f"{room}.{name}", layer, frozenset(kinds))


def plan_storage(
    models: Mapping[str, HasWeights],
    recipe: Recipe,
    backends: Sequence[str],
    trained: Mapping[str, Mapping[str, int]] | None = None,
) -> Stored:
    """How every weight of `models` is stored, by model and weight name.

    `trained` has the bits of those weights that the checkpoints hold as codes, by model and name. Codes are kept where
    `recipe` keeps those, or has a format per channel for them that holds as many bits; values are never rounded anew
    to what they are already.

    Raises:
        UserError: the recipe does not fit the models (see `Recipe.choose`), a weight cannot be stored so, or `backends`
            has one that does not run it.
    """
    names = {
        model: {weight.name: tensor_name(model, plan.config, weight) for weight in plan.weights.values()}
        for model, plan in models.items()
    }
    rules = recipe.choose(name for entries in names.values() for name in entries.values() if name)
    stored: Stored = {}
    for model, plan in models.items():
        stored[model] = {}
        for weight in plan.weights.values():
            name = names[model][weight.name]
            if name is None:
                stored[model][weight.name] = FP32
                continue
            rule = rules[name]
            bits = (trained or {}).get(model, {}).get(weight.name)
            storage = _with_codes(rule.stored_as, bits, keep=recipe.keep_trained and any((trained or {}).values()))
            if problem := _problem(model, name, weight, storage, backends):
                raise UserError(f"{rule.place}: {problem}")
            stored[model][weight.name] = storage
    return stored


def _with_codes(asked: Storage, bits: int | None, *, keep: bool) -> Storage:
    """How a weight is stored for which a rule asks for `asked`, and which the checkpoint has in codes of `bits`.

    `keep`: the pair has codes, and the recipe keeps them; what training left unquantized was not trained for few bits.
    """
    form = asked.format
    if bits is None:
        return INT8 if keep and form.bits < INT8.format.bits else asked
    if keep:
        return kept(bits)
    wide_enough = not form.is_float and not form.block and form.bits >= bits
    return kept(form.bits) if wide_enough else asked


def _problem(model: str, name: TensorName, weight: Weight, storage: Storage, backends: Sequence[str]) -> str | None:
    form = storage.format
    columns = math.prod(weight.shape[1:])
    if form.block and weight.role is Role.GATHERED:
        return f"{name} in {form.name}: the rows of a clustered head are copied whole; store it per channel"
    if form.name == "fp16" and weight.role is Role.GATHERED and "gpu" in backends:
        return f"{name} in fp16: the GPU refuses to copy its rows; use int8 or fp32, or export with --backends cpu"
    if columns * form.bits % 8 or (form.block and columns % form.block):
        unit = f"blocks of {form.block}" if form.block else "whole bytes"
        fitting = "a smaller block, or a format per channel" if form.block else "int8"
        return f"{name} in {form.name}: its rows of {columns} values do not fill {unit}; use {fitting}"
    for backend in backends:
        if backend not in form.backends and model in GPU_MODELS:
            return (
                f"{name} in {form.name}: LiteRT's {backend.upper()} accelerator crashes on it; export with --backends"
                f" {','.join(form.backends)}, or store it per channel"
            )
    return None


def shares_table(models: Mapping[str, HasWeights], stored: Stored) -> bool:
    """Whether the embedder's table is the target's head too: one tensor of the checkpoint, stored alike."""
    table, head = (stored[name].get(EMBEDDING) for name in (EMBEDDER, PREFILL_DECODE))
    return table is not None and table == head and EMBEDDING in models[PREFILL_DECODE].weights


def weight_bytes(models: Mapping[str, HasWeights], stored: Stored) -> Iterator[tuple[str, Weight, int]]:
    """Every weight of every model, and the bytes that it takes in a bundle, with scales.

    What embedder and head share is the head's; scales of channels are in each of both.
    """
    shared = shares_table(models, stored)
    for model, plan in models.items():
        for weight in plan.weights.values():
            form = stored[model][weight.name].format
            if shared and model == EMBEDDER:
                yield model, weight, 0 if form.block else form.scale_bytes(weight.shape)
            else:
                yield model, weight, stored_bytes(stored[model], weight)


def stored_bytes(stored: Mapping[str, Storage], weight: Weight) -> int:
    """Bytes that `weight` takes in a model's file, with scales."""
    form = stored[weight.name].format
    if weight.role is Role.GATHERED:
        return form.data_bytes(weight.shape)
    return form.data_bytes(weight.shape) + form.scale_bytes(weight.shape)
