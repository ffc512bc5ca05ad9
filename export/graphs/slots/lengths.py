"""Graphs whose context is chosen when they are loaded: nothing in them knows the caches' length but tensors' shapes.

LiteRT-LM replaces the placeholder in shapes and in what operators take for sizes, nowhere else (`UpdateMagicNumber...`
in LiteRT's magic_number_utils.cc). Starts of slices, which decompositions bound by the length, are made from SHAPE
here: only the CPU runs decompositions, and a GPU would not take that operator. litert-torch cannot write it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers

from ....runtime.bundle.flatbuffer import operator_code, operator_name
from ....runtime.bundle.names import CACHE_UPDATE, RUNTIME_BMM
from .writer import GraphWriter, shape_of


def measure_caches(model: Any, length: int) -> None:
    """Make every last start that `model` (object form, changed in place) has as a constant from its cache's shape.

    `length` is the placeholder, the number of slots in all caches.

    Raises:
        AssertionError: a constant is as long as the caches, and would not follow them.
    """
    decompositions = {}
    for graph in model.subgraphs:
        for operator in graph.operators:
            if operator_name(model, operator) in (CACHE_UPDATE, RUNTIME_BMM):
                decompositions[operator.builtinOptions2.decompositionSubgraphIndex] = operator
    for index, composite in sorted(decompositions.items()):
        _measure(model, model.subgraphs[index], *_cache_of(model, composite), length)
    _check_constants(model, length)


def _cache_of(model: Any, composite: Any) -> tuple[int, int]:
    """Which of a composite's inputs is a cache, and on which axis its slots lie."""
    if operator_name(model, composite) == CACHE_UPDATE:
        return 3, 2
    attributes: Any = flexbuffers.Loads(bytes(composite.builtinOptions2.compositeAttributes))
    return 1, 3 if attributes["is_src"] else 2


def _measure(model: Any, graph: Any, place: int, axis: int, length: int) -> None:
    """Replace the constants by which MINIMUM bounds a start in `graph`: `length` less the rows of a slice."""
    written, cut = graph.operators, _rows_of_slices(model, graph, length)
    writer, made = GraphWriter(model, graph), dict[int, int]()
    graph.operators = []
    for operator in written:
        if operator_code(model, operator) == schema.BuiltinOperator.MINIMUM:
            read = [int(tensor) for tensor in operator.inputs]
            for at, tensor in enumerate(read):
                rows = length - _constant(model, graph, tensor)
                if rows in cut and rows not in made:
                    made[rows] = writer.last_start(int(graph.inputs[place]), axis, rows)
                read[at] = made.get(rows, tensor)
            operator.inputs = read
        graph.operators.append(operator)


def _rows_of_slices(model: Any, graph: Any, length: int) -> set[int]:
    """How many of `length` slots each slice in `graph` takes."""
    found = set[int]()
    for operator in graph.operators:
        if operator_code(model, operator) == schema.BuiltinOperator.SLICE:
            before, after = (
                shape_of(graph.tensors[int(tensor)]) for tensor in (operator.inputs[0], operator.outputs[0])
            )
            found |= {rows for whole, rows in zip(before, after, strict=True) if whole == length != rows}
    return found


def _constant(model: Any, graph: Any, tensor: int) -> int:
    """The value of an int32 constant of one element; 0 for other tensors."""
    data = model.buffers[graph.tensors[tensor].buffer].data
    if data is None or graph.tensors[tensor].type != schema.TensorType.INT32 or len(data) != 4:
        return 0
    return int(np.frombuffer(bytes(bytearray(data)), np.int32)[0])


def _check_constants(model: Any, length: int) -> None:
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            stored = model.buffers[tensor.buffer].data is not None
            if stored and any(size and size % length == 0 for size in shape_of(tensor)):
                raise AssertionError(f"{tensor.name.decode()} has the length {length} of the caches as a constant")
