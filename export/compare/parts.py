"""The parts of a pair that formats are chosen for, one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...quantize.formats import FP32, Storage
from ...quantize.recipes import Recipe, Rule, TensorName
from ..graphs.storage import HasWeights, Stored, plan_storage, tensor_name, weight_bytes


@dataclass(frozen=True)
class Part:
    """Tensors that get one format: their patterns, as recipes have them, and the kind of layers if not all."""

    name: str
    tensors: tuple[str, ...]
    layers: str | None = None

    def rule(self, stored_as: Storage, why: str = "") -> Rule:
        """That stores it so."""
        return Rule(self.tensors, stored_as, self.layers, why=why)


# Layers that write caches are apart from those that only read them, as the drafter reads these caches as well. Embedder
# and tied head are one part: stored alike, they hold the same bytes.
_PARTS = (
    Part("target.attention, own-kv", ("target.attention.*",), "own-kv"),
    Part("target.attention, shared-kv", ("target.attention.*",), "shared-kv"),
    Part("target.mlp, own-kv", ("target.mlp.*",), "own-kv"),
    Part("target.mlp, shared-kv", ("target.mlp.*",), "shared-kv"),
    Part("target.per_layer", ("target.per_layer.*",)),
    Part("embedder and head", ("embedder", "target.head")),
    Part("per_layer_embedder", ("per_layer_embedder",)),
    Part("drafter's head", ("drafter.head", "drafter.centroids")),
    Part("drafter's layers", ("drafter.*_projection", "drafter.attention.*", "drafter.mlp.*")),
)


def parts_of(models: Mapping[str, HasWeights]) -> list[Part]:
    """The parts of a pair, with only those patterns that match some of its tensors."""
    names = list(_names(models))
    found = []
    for part in _PARTS:
        rule = part.rule(FP32)
        patterns = tuple(pattern for pattern in part.tensors if any(rule.takes(name, pattern) for name in names))
        if patterns:
            found.append(Part(part.name, patterns, part.layers))
    return found


def stored_alone(
    models: Mapping[str, HasWeights], part: Part, stored_as: Storage, backends: Sequence[str]
) -> tuple[Stored, int]:
    """How everything is stored if `part` is stored so and all else in float32, and the bytes of `part`.

    Raises:
        UserError: it cannot be stored so.
    """
    rule = part.rule(stored_as)
    stored = plan_storage(models, Recipe("one part", "", (rule, Rule(("*",), FP32))), backends)
    size = 0
    for model, weight, count in weight_bytes(models, stored):
        name = tensor_name(model, models[model].config, weight)
        if name and any(rule.takes(name, pattern) for pattern in rule.tensors):
            size += count
    return stored, size


def _names(models: Mapping[str, HasWeights]) -> Iterator[TensorName]:
    for model, plan in models.items():
        for weight in plan.weights.values():
            if name := tensor_name(model, plan.config, weight):
                yield name
