"""Faults in the graphs themselves: an operator left out, another constant, another tensor taken. See `faults`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tests.support.surgery import Surgery, operator_like

Plant = Callable[[Surgery], None]


def _graphs(model: Surgery, only: str = "") -> Iterator[tuple[Any, Any]]:
    """Signatures and graphs; those of the signature `only`, where one is named."""
    found = [entry for entry in model.entries() if only in ("", entry[0].signatureKey.decode())]
    assert found, f"there is no signature {only}"
    yield from found


def window(change: int, only: str = "") -> Plant:
    """The sliding window `change` slots wider."""

    def plant(model: Surgery) -> None:
        for _, graph in _graphs(model, only):
            begin = shifted_mask(model, graph).inputs[1]
            model.set_constant(graph, begin, model.constant(graph, begin) + np.array([0, 0, 0, change], np.int32))

    return plant


def shifted_mask(model: Surgery, graph: Any) -> Any:
    """The slice of the mask that begins a window further on, whose zeros are out of the window."""
    return model.producer(graph, model.operators(graph, "EQUAL")[0].inputs[0])


def scaled_output(name: str, factor: float) -> Plant:
    """An output `factor` times as large, in every signature that has it; what else is made of it stays right."""

    def plant(model: Surgery) -> None:
        for signature, graph in model.entries():
            for entry in signature.outputs:
                if entry.name == name.encode():
                    old = entry.tensorIndex
                    takers = [op for op in graph.operators if int(old) in map(int, op.inputs)]
                    model.scale(graph, old, factor)
                    for operator in takers:
                        operator.inputs = np.array(
                            [old if int(i) == entry.tensorIndex else i for i in operator.inputs], np.int32
                        )

    return plant


def scaled_constant(kind: str, factor: float, which: int = 0) -> Plant:
    """The constant of the `which`th `MUL` by one; or of those before and after a `TANH`, whose cap is it."""

    def plant(model: Surgery) -> None:
        for _, graph in model.entries():
            if kind == "TANH":
                _scale_around_tanh(model, graph, factor)
                continue
            products = [op for op in model.operators(graph, kind) if model.constant(graph, op.inputs[1]) is not None]
            constant = model.constant(graph, products[which].inputs[1])
            model.set_constant(graph, products[which].inputs[1], constant * np.float32(factor))

    return plant


def _scale_around_tanh(model: Surgery, graph: Any, factor: float) -> None:
    for tanh in model.operators(graph, "TANH"):
        before = model.producer(graph, tanh.inputs[0])
        after = next(operator for operator in graph.operators if int(tanh.outputs[0]) in map(int, operator.inputs))
        for operator, by in ((before, 1 / factor), (after, factor)):
            value = model.constant(graph, operator.inputs[1])
            model.set_constant(graph, operator.inputs[1], value * np.float32(by))


def scaled_scores(factor: float) -> Plant:
    """Attention scores of every layer scaled."""

    def plant(model: Surgery) -> None:
        for _, graph in model.entries():
            for product in model.composites(graph, "odml.runtime_bmm")[::2]:
                model.scale(graph, product.outputs[0], factor)

    return plant


def without_norm(weight: str) -> Plant:
    """The RMS norm with this weight left out."""

    def plant(model: Surgery) -> None:
        for _, graph in model.entries():
            norms = [
                norm
                for norm in model.composites(graph, "odml.rms_norm")
                if graph.tensors[int(norm.inputs[1])].name == weight.encode()
            ]
            for norm in norms:
                model.rewire(graph, norm.outputs[0], norm.inputs[0], output=False)

    return plant


def without_value_norm(layer: int) -> Plant:
    """A layer's new values are not normed; they are the second input of its cache's update."""

    def plant(model: Surgery) -> None:
        for _, graph in model.entries():
            update = model.composites(graph, "odml.cache_update")[layer]
            norm = model.producer(graph, update.inputs[1])
            while len(norm.inputs) != 2 or norm not in model.composites(graph, "odml.rms_norm"):
                norm = model.producer(graph, norm.inputs[0])
            model.rewire(graph, norm.outputs[0], norm.inputs[0], output=False)

    return plant


def without_per_layer_input(layer: int) -> Plant:
    """A layer adds nothing of its per-layer input: what takes the sum takes its first summand."""

    def plant(model: Surgery) -> None:
        name = f"layers.{layer}.post_per_layer_input_norm.weight".encode()
        for _, graph in model.entries():
            for norm in model.composites(graph, "odml.rms_norm"):
                if graph.tensors[int(norm.inputs[1])].name == name:
                    total = next(op for op in graph.operators if int(norm.outputs[0]) in map(int, op.inputs))
                    model.rewire(graph, total.outputs[0], total.inputs[0], output=False)

    return plant


def mask_of_another_kind(layer: int, *, full: bool) -> Plant:
    """A layer masks as a full one (`full`) or as a sliding one."""

    def plant(model: Surgery) -> None:
        for _, graph in model.entries():
            equals = model.operators(graph, "EQUAL")[1:]
            narrowing, *selects = model.operators(graph, "SELECT_V2")  # The first ones narrow the mask to the window.
            if layer >= len(selects):  # A prefill ends with the last cache.
                continue
            if full:
                shown = model.tensor_like(graph, equals[0].outputs[0])
                at = graph.operators.index(narrowing)
                causal = narrowing.inputs[2]
                graph.operators.insert(at, operator_like(equals[0], [causal, equals[0].inputs[1]], [shown]))
            else:
                shown = equals[0].outputs[0]
            selects[layer].inputs = np.array([shown, *selects[layer].inputs[1:]], np.int32)

    return plant


def cache_of_another_layer(reader: int, read: int) -> Plant:
    """Layer `reader` attends over the cache of layer `read`."""

    def plant(model: Surgery) -> None:
        for _, graph in model.entries():
            updates, products = (model.composites(graph, f"odml.{n}") for n in ("cache_update", "runtime_bmm"))
            if len(products) <= 2 * reader:  # A prefill ends with the last cache.
                continue
            for product, cache in zip(products[2 * reader : 2 * reader + 2], updates[read].outputs, strict=True):
                product.inputs = np.array([product.inputs[0], cache, product.inputs[2]], np.int32)

    return plant


def keys_as_values(layer: int) -> Plant:
    """A layer writes its keys where its values belong, and the other way round."""

    def plant(model: Surgery) -> None:
        for _, graph in model.entries():
            update = model.composites(graph, "odml.cache_update")[layer]
            key, value, *rest = update.inputs
            update.inputs = np.array([value, key, *rest], np.int32)

    return plant


def writes_at_slot_0(only: str = "") -> Plant:
    """Cache rows go to slot 0, wherever the step begins."""

    def plant(model: Surgery) -> None:
        for _, graph in _graphs(model, only):
            for update in model.composites(graph, "odml.cache_update"):
                for indices in update.inputs[5:7]:
                    place = model.producer(graph, indices)
                    place.inputs = np.full(4, next(i for i in place.inputs if _is_zero(model, graph, i)), np.int32)

    return plant


def _is_zero(model: Surgery, graph: Any, index: int) -> bool:
    value = model.constant(graph, index)
    return value is not None and not value.any()


def later_logits(only: str) -> Plant:
    """Each row of logits is the next token's."""

    def plant(model: Surgery) -> None:
        for signature, graph in _graphs(model, only):
            logits = model.output(signature, "logits").tensorIndex
            rows = graph.tensors[int(logits)].shape[1]
            places = model.constant_tensor(graph, np.minimum(np.arange(rows) + 1, rows - 1).astype(np.int32))
            later = model.tensor_like(graph, logits)
            gather = operator_like(model.operators(graph, "GATHER")[0], [logits, places], [later])
            gather.builtinOptions = schema.GatherOptionsT()
            gather.builtinOptions.axis, gather.builtinOptions.batchDims = 1, 0
            model.rewire(graph, logits, later)
            graph.operators.append(gather)

    return plant


def other_gelu(model: Surgery) -> None:
    """The exact GELU where the model was trained with the tanh approximation, or the other way round."""
    changed = 0
    for _, graph in model.entries():
        for gelu in model.operators(graph, "GELU"):
            gelu.builtinOptions.approximate = not gelu.builtinOptions.approximate
            changed += 1
    assert changed
