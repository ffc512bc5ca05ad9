"""The scales of int8 KV caches, in every place of a model that names one.

On the CPU the decompositions of LiteRT-LM's cache composites run, which quantize by the scales of their tensors. The
GPU reads the composites' attributes instead: `odml.cache_update` has `scale_k` and `scale_v`; `odml.runtime_bmm` takes
the scale of the update in the same graph, and its own `scale` where the cache is an input of the graph alone. All of
them must be one and the same, in all signatures, with zero point 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers

from .names import CACHE_UPDATE, RUNTIME_BMM, is_cache

# Operands that are caches, beside the attribute that names their scale; the update's outputs are in the same order.
_OPERANDS = {CACHE_UPDATE: ((3, "scale_k"), (4, "scale_v")), RUNTIME_BMM: ((1, "scale"),)}
_INT8 = schema.TensorType.INT8
# Attributes may be stored in less than float32's precision of a text form.
_SAME = 1e-6


@dataclass(frozen=True)
class StoredScale:
    """The scale of cache `cache` as `place` of a model names it; None where nothing is named there.

    `needed`: the GPU has nothing else to go by. Tensors need no scale where a decomposition is written in arithmetic.
    """

    cache: str
    place: str
    scale: float | None
    zero_point: int = 0
    needed: bool = False


def read_scales(model: Any) -> tuple[StoredScale, ...]:
    """Every place of `model` (a `schema.Model`) where an int8 cache has a scale, or should have one."""
    found: list[StoredScale] = []
    for index in range(model.SignatureDefsLength()):
        found += _of_signature(model, model.SignatureDefs(index))
    return tuple(found)


def scales_by_cache(places: Iterable[StoredScale]) -> dict[str, float]:
    """The scale of each int8 cache: what most places name."""
    named: dict[str, Counter[float]] = {}
    for found in places:
        if found.scale is not None:
            named.setdefault(found.cache, Counter())[found.scale] += 1
    return {cache: counts.most_common(1)[0][0] for cache, counts in named.items()}


def scale_problems(models: Mapping[str, Iterable[StoredScale]]) -> list[str]:
    """Where the models of a bundle, by name, disagree about a cache's scale, or lack one; one line each."""
    found = [(model, place) for model, places in models.items() for place in places]
    scales = scales_by_cache(place for _, place in found)
    problems = []
    for model, place in found:
        expected, where = scales.get(place.cache), f"{model}: {place.place}"
        if place.scale is None or expected is None:
            if place.needed:
                problems.append(f"{where} names no scale for {place.cache}, an int8 cache")
        elif abs(place.scale - expected) > _SAME * expected:
            problems.append(f"{where} has {place.cache} in steps of {place.scale:.6g}, elsewhere {expected:.6g}")
        elif place.zero_point:
            problems.append(f"{where} gives {place.cache} the zero point {place.zero_point}, expected 0")
    return problems


def _of_signature(model: Any, signature: Any) -> Iterator[StoredScale]:
    key, graph = signature.SignatureKey().decode(), model.Subgraphs(signature.SubgraphIndex())
    held: dict[int, str] = {}
    for count, entry in (
        (signature.InputsLength(), signature.Inputs),
        (signature.OutputsLength(), signature.Outputs),
    ):
        side = "input" if entry == signature.Inputs else "output"
        for index in range(count):
            name, place = entry(index).Name().decode(), entry(index).TensorIndex()
            if is_cache(name) and graph.Tensors(place).Type() == _INT8:
                yield _of_tensor(graph.Tensors(place), name, f"{key}, {side}")
                if side == "input":
                    held[place] = name
    given = set(held)
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        options = _composite(model, operator)
        if options is None or (name := options.Name().decode()) not in _OPERANDS:
            continue
        attributes = _attributes(options)
        for output, (operand, attribute) in enumerate(_OPERANDS[name]):
            if (cache := held.get(place := operator.Inputs(operand))) is None:
                continue
            if name == CACHE_UPDATE:
                held[operator.Outputs(output)] = cache
            if name == CACHE_UPDATE or place in given:
                yield StoredScale(cache, f"{key}, {attribute} of {name}", attributes.get(attribute), needed=True)
            yield from _inside(model, options, operand, cache, f"{key}, inside {name}")


def _inside(model: Any, options: Any, operand: int, cache: str, where: str) -> Iterator[StoredScale]:
    """What the CPU quantizes by: the tensors of a decomposition that QUANTIZE writes and DEQUANTIZE reads."""
    graph = model.Subgraphs(options.DecompositionSubgraphIndex())
    connected = [graph.Inputs(operand)]
    operators = [graph.Operators(index) for index in range(graph.OperatorsLength())]
    ends = [[*_places(operator.InputsAsNumpy()), *_places(operator.OutputsAsNumpy())] for operator in operators]
    for place in connected:
        for touched in ends:
            if place in touched:
                connected += [i for i in touched if i not in connected and graph.Tensors(i).Type() == _INT8]
    for place in connected:
        yield _of_tensor(graph.Tensors(place), cache, where)


def _places(indices: Any) -> list[int]:
    return [] if isinstance(indices, int) else [int(index) for index in indices if index >= 0]


def _of_tensor(tensor: Any, cache: str, where: str) -> StoredScale:
    quantization = tensor.Quantization()
    if quantization is None or quantization.ScaleLength() != 1:
        return StoredScale(cache, where, None)
    zero = int(quantization.ZeroPoint(0)) if quantization.ZeroPointLength() else 0
    return StoredScale(cache, where, float(quantization.Scale(0)), zero)


def _composite(model: Any, operator: Any) -> Any:
    code = model.OperatorCodes(operator.OpcodeIndex())
    if max(code.BuiltinCode(), code.DeprecatedBuiltinCode()) != schema.BuiltinOperator.STABLEHLO_COMPOSITE:
        return None
    options: Any = schema.StableHLOCompositeOptions()
    table = operator.BuiltinOptions2()
    options.Init(table.Bytes, table.Pos)
    return options


def _attributes(options: Any) -> dict[str, Any]:
    stored = options.CompositeAttributesAsNumpy()
    loaded: Any = {} if isinstance(stored, int) else flexbuffers.Loads(bytes(stored))
    return loaded
