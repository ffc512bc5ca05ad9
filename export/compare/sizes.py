"""How many bytes a recipe makes of a pair, by component, from shapes alone.

The shapes of E2B and E4B with their drafters ship as `shapes/*.json`: the parts of the published `config.json` files
that decide them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...quantize.recipes import Recipe
from ...runtime.bundle.names import EMBEDDER, MTP_DRAFTER, PER_LAYER_EMBEDDER, PREFILL_DECODE
from ...runtime.errors import UserError
from ...runtime.fields import Fields, read_object
from ..checkpoint.config import DecoderConfig, DrafterConfig, TargetConfig
from ..checkpoint.read_config import read_drafter_config, read_target_config
from ..checkpoint.weights import (
    Weight,
    decode_weights,
    drafter_weights,
    embedder_weights,
    per_layer_embedder_weights,
)
from ..graphs.storage import plan_storage, tensor_name, weight_bytes

SHAPES = Path(__file__).parents[1] / "shapes"
KNOWN = ("e2b", "e4b")


@dataclass(frozen=True)
class Shapes:
    """Configurations of a target and its drafter."""

    name: str
    target: TargetConfig
    drafter: DrafterConfig


@dataclass(frozen=True)
class _Weights:
    config: DecoderConfig
    weights: Mapping[str, Weight]


def known_shapes(name: str) -> Shapes:
    """The published pair called `name`, one of KNOWN."""
    path = SHAPES / f"{name}.json"
    content = Fields(read_object(path), str(path))
    target, drafter = content.object("target").values, content.object("drafter").values
    return Shapes(content.text("name"), read_target_config(target, str(path)), read_drafter_config(drafter, str(path)))


def component_bytes(shapes: Shapes, recipe: Recipe, backends: Sequence[str]) -> dict[str, int]:
    """Bytes of weights by component (`target.mlp`, `embedder`, ...; `exact` is what no recipe changes), with scales.

    Args:
        shapes: of the pair.
        recipe: how its weights are stored.
        backends: that it must run on.

    Raises:
        UserError: the recipe does not fit; see `plan_storage`.
    """
    lists = {
        PREFILL_DECODE: (shapes.target, decode_weights(shapes.target)),
        EMBEDDER: (shapes.target, embedder_weights(shapes.target)),
        PER_LAYER_EMBEDDER: (shapes.target, per_layer_embedder_weights(shapes.target)),
        MTP_DRAFTER: (shapes.drafter, drafter_weights(shapes.drafter, shapes.target.max_position_embeddings)),
    }
    models = {name: _Weights(config, {w.name: w for w in weights}) for name, (config, weights) in lists.items()}
    stored = plan_storage(models, recipe, backends)
    sums: Counter[str] = Counter()
    for model, weight, count in weight_bytes(models, stored):
        name = tensor_name(model, models[model].config, weight)
        sums[component(name.name) if name else "exact"] += count
    return dict(sums)


def price_tags(recipe: Recipe, backends: Sequence[str]) -> dict[str, dict[str, int]]:
    """`component_bytes` of every pair in KNOWN, the bytes for a recipe that is for some of `backends` only.

    Raises:
        UserError: the recipe fits none of them.
    """
    tags, problem = {}, None
    for name in KNOWN:
        shapes = known_shapes(name)
        for choice in (backends, *((backend,) for backend in backends)):
            try:
                tags[name] = component_bytes(shapes, recipe, choice)
            except UserError as error:
                problem = problem or error
            else:
                break
    if not tags and problem:
        raise problem
    return tags


def component(name: str) -> str:
    """The part that a tensor, as recipes call it, belongs to: `target.mlp` of `target.mlp.up_proj`."""
    return ".".join(name.split(".")[:2])
