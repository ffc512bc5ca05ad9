"""Give the int8 caches of a skeleton their scales: to the tensors, to the composites, and to what stands for those.

The GPU reads the composites' attributes (`odml.cache_update`: `scale_k` and `scale_v`; `odml.runtime_bmm`: `scale`
where the graph does not write the cache itself), the CPU runs the decompositions, and readers of the file find each
cache's scale at its tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers

from ...runtime.bundle.flatbuffer import operator_code, operator_name
from ...runtime.bundle.names import CACHE_UPDATE, RUNTIME_BMM, is_cache

_INT8, _FLOAT32 = schema.TensorType.INT8, schema.TensorType.FLOAT32
# Operands: of the update, the old caches among its inputs, beside the attribute that has their scale; of the product,
# the cache.
_UPDATED = ((3, "scale_k"), (4, "scale_v"))
_READ = 1


def set_cache_scales(model: Any, scales: Mapping[str, float]) -> None:
    """Quantize the int8 caches of `model`, a merged skeleton, by `scales`, cache name to scale; zero point 0.

    Changes `model` in place; nothing changes where it has no int8 caches. CASTs to and from int8 inside the composites
    become QUANTIZE and DEQUANTIZE.
    """
    codes, decompositions = _Codes(model), _Decompositions(model)
    for signature in model.signatureDefs:
        graph = model.subgraphs[signature.subgraphIndex]
        # The cache that a tensor holds, at first or after an update.
        held = {
            int(entry.tensorIndex): name
            for entry in signature.inputs
            if is_cache(name := entry.name.decode()) and graph.tensors[entry.tensorIndex].type == _INT8
        }
        given = set(held)
        for operator, name in ((operator, operator_name(model, operator)) for operator in graph.operators):
            attributes: dict[str, float] = {}
            inside: dict[int, float] = {}
            if name == CACHE_UPDATE:
                for output, (place, attribute) in zip(operator.outputs, _UPDATED, strict=True):
                    if cache := held.get(int(operator.inputs[place])):
                        held[int(output)] = cache
                        attributes[attribute] = inside[place] = scales[cache]
            elif name == RUNTIME_BMM and (cache := held.get(read := int(operator.inputs[_READ]))):
                inside[_READ] = scales[cache]
                if read in given:
                    attributes["scale"] = scales[cache]
            if inside:
                _add_attributes(operator, attributes)
                if decompositions.take(operator, inside):
                    _quantize_inside(codes, operator, inside)
        for index, cache in held.items():
            _set_scale(graph.tensors[index], scales[cache])


class _Codes:
    """Operator codes of a model by builtin, added where they are missing."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def index(self, builtin: int) -> int:
        for index, code in enumerate(self.model.operatorCodes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == builtin:
                return index
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = builtin
        code.version = 2  # int8
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1


class _Decompositions:
    """Gives composites that share a decomposition one for each of their caches' scales."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._before: dict[int, Any] = {}
        self._made: dict[tuple[int, tuple[tuple[int, float], ...]], int] = {}

    def take(self, composite: Any, scales: dict[int, float]) -> bool:
        """Point `composite` to the decomposition for `scales`, by place among its inputs; is it still to be made?"""
        index = composite.builtinOptions2.decompositionSubgraphIndex
        key = index, tuple(sorted(scales.items()))
        is_new = key not in self._made
        if index not in self._before:
            self._before[index] = deepcopy(self._model.subgraphs[index])
            self._made[key] = index
        elif is_new:
            self._made[key] = len(self._model.subgraphs)
            self._model.subgraphs.append(deepcopy(self._before[index]))
        composite.builtinOptions2.decompositionSubgraphIndex = self._made[key]
        return is_new


def _add_attributes(operator: Any, added: dict[str, float]) -> None:
    options = operator.builtinOptions2
    attributes: Any = flexbuffers.Loads(bytes(bytearray(options.compositeAttributes)))
    content = flexbuffers.Dumps({**attributes, **added})
    options.compositeAttributes = np.frombuffer(bytes(content), np.uint8)


def _quantize_inside(codes: _Codes, composite: Any, scales: dict[int, float]) -> None:
    """Quantize the decomposition of `composite`; `scales` is by the place of a cache among its inputs."""
    graph = codes.model.subgraphs[composite.builtinOptions2.decompositionSubgraphIndex]
    for place, scale in scales.items():
        for index in _connected(graph, int(graph.inputs[place])):
            _set_scale(graph.tensors[index], scale)
    for operator in graph.operators:
        if operator_code(codes.model, operator) != schema.BuiltinOperator.CAST:
            continue
        kinds = tuple(graph.tensors[int(side[0])].type for side in (operator.inputs, operator.outputs))
        if kinds == (_INT8, _FLOAT32):
            operator.opcodeIndex = codes.index(schema.BuiltinOperator.DEQUANTIZE)
            operator.builtinOptionsType = schema.BuiltinOptions.DequantizeOptions
            operator.builtinOptions = schema.DequantizeOptionsT()
        elif kinds == (_FLOAT32, _INT8):
            operator.opcodeIndex = codes.index(schema.BuiltinOperator.QUANTIZE)
            operator.builtinOptionsType = schema.BuiltinOptions.QuantizeOptions
            operator.builtinOptions = schema.QuantizeOptionsT()


def _connected(graph: Any, start: int) -> Iterator[int]:
    """The int8 tensors that operators connect with tensor `start`: they hold parts of the same cache."""
    found = [start]
    for index in found:
        for operator in graph.operators:
            touched = [int(other) for side in (operator.inputs, operator.outputs) for other in side if other >= 0]
            if index in touched:
                found += [i for i in touched if graph.tensors[i].type == _INT8 and i not in found]
    yield from found


def _set_scale(tensor: Any, scale: float) -> None:
    quantization: Any = schema.QuantizationParametersT()
    quantization.scale, quantization.zeroPoint = np.array([scale], np.float32), np.zeros(1, np.int64)
    tensor.quantization = quantization
