"""Attention products of full layers, block by block over the slots in use instead of over the whole cache.

The decomposition of an `odml.runtime_bmm` becomes the body of a WHILE, run on one block of slots at a time up to the
step's end. The CPU hands a loop its cache without copying it; a GPU, which has kernels for the composites, never sees
it. Blocks begin at fixed slots, so each row's sum has the same terms in the same order, whatever the pass. Written
into the flatbuffer, as litert-torch cannot export a loop.

A loop over scores carries those of all slots from turn to turn, which in time costs more than the whole product at
once; so that takes its place where many slots are in use.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers

from ....runtime.bundle.flatbuffer import operator_code, operator_name
from ....runtime.bundle.names import PARAM_TENSOR, RUNTIME_BMM
from .writer import GraphWriter, shape_of

# Where a model has no sliding window to tell.
SLOTS_PER_BLOCK = 512
# Turns over scores of R rows that take as long as the whole product are this over R, whatever the context (measured
# with 32 and 72 rows of 512 values: 28 and 12 turns, 2 x86-64 cores with AVX-512).
_TURNS_TIMES_ROWS = 896
_END = 1  # Place of the end of the slots in use in param_tensor.
_F, _I, _B = schema.TensorType.FLOAT32, schema.TensorType.INT32, schema.TensorType.BOOL


def loop_over_blocks(model: Any, block: int) -> int:
    """Turn every whole product in `model` (object form, changed in place) into a loop over blocks of `block` slots.

    Windowed products and caches of no more than one block stay as they are.

    Returns:
        How many decompositions were changed.
    """
    composites: dict[int, Any] = {}
    for graph in model.subgraphs:
        for operator in graph.operators:
            if operator_name(model, operator) == RUNTIME_BMM:
                composites[operator.builtinOptions2.decompositionSubgraphIndex] = operator
    return sum(_rewrite(model, index, composite, block) for index, composite in sorted(composites.items()))


def _rewrite(model: Any, index: int, composite: Any, block: int) -> bool:
    graph = model.subgraphs[index]
    attributes: Any = flexbuffers.Loads(bytes(composite.builtinOptions2.compositeAttributes))
    is_value = bool(attributes["is_src"])
    axis = 3 if is_value else 2
    length = int(graph.tensors[int(graph.inputs[1])].shape[axis])
    windowed = any(operator_code(model, o) == schema.BuiltinOperator.SLICE for o in graph.operators)
    rows = shape_of(graph.tensors[int(graph.outputs[0])])[2]
    most = length if is_value else _TURNS_TIMES_ROWS // rows * block
    if windowed or length <= block or most == 0:
        return False
    first, whole = len(model.subgraphs), deepcopy(graph)
    product = _block_product(model, graph, block, is_value=is_value)
    state = [graph.tensors[int(tensor)] for tensor in (*graph.inputs, *graph.outputs)]
    body = _block_turn(model, state, product, composite, first + 2, block, is_value=is_value)
    model.subgraphs += [body, _more_slots(model, state), product]
    if most < length:
        model.subgraphs += [_whole_turn(model, state, composite, first + 4), whole]
    _run_loops(model, graph, first, block, axis, most if most < length else None)
    return True


def _block_product(model: Any, decomposition: Any, block: int, *, is_value: bool) -> Any:
    """The decomposition on the block of slots that begins at param_tensor[0].

    The last block begins earlier where the cache ends; slots that an earlier block has had count as 0 then.
    """
    axis = 3 if is_value else 2
    graph = deepcopy(decomposition)
    graph.name = b"block_product"
    lhs, cache, parameters = (int(tensor) for tensor in graph.inputs)
    writer = GraphWriter(model, graph)
    all_slots, all_shares = writer.like(cache), writer.like(lhs)
    _shorten(model, graph, {cache: 3, lhs: 3} if is_value else {cache: 2}, block)
    operators, graph.operators = graph.operators, []
    slot, start = writer.scalar_of(parameters, [0, 0, 0, 0], 4), writer.tensor([], _I)
    last = writer.last_start(all_slots, axis, block)
    writer.add("MINIMUM", [slot, last], [start], schema.MaximumMinimumOptionsT())
    writer.slice(all_slots, axis, start, cache)
    if is_value:
        shares, passed, new = writer.like(lhs), writer.tensor([], _I), writer.tensor([block], _B)
        writer.slice(all_shares, 3, start, shares)
        writer.add("SUB", [slot, start], [passed], schema.SubOptionsT())
        columns = writer.integers(np.arange(block))
        writer.add("GREATER_EQUAL", [columns, passed], [new], schema.GreaterEqualOptionsT())
        zero = writer.constant(np.float32(0), _F)
        writer.add("SELECT_V2", [new, shares, zero], [lhs], schema.SelectV2OptionsT())
    graph.operators += operators
    graph.inputs = [all_shares if is_value else lhs, all_slots, parameters]
    return graph


def _run_loops(model: Any, graph: Any, first: int, block: int, axis: int, most: int | None) -> None:
    """Replace what `graph` does by a loop over blocks; with `most`, by the whole product where more slots are in use.

    The subgraphs from `first` on: a turn over a block, the condition, the block's product, a turn over all.
    """
    inputs = lhs, cache, parameters = [int(tensor) for tensor in graph.inputs]
    out = int(graph.outputs[0])
    graph.operators = []
    writer = GraphWriter(model, graph)
    end = writer.scalar_of(parameters, [0, 0, 0, _END], 4)
    last = writer.last_start(cache, axis, block)
    zeros = writer.like(out)
    dims = writer.integers(shape_of(graph.tensors[out]))
    writer.add("FILL", [dims, writer.constant(np.float32(0), _F)], [zeros], schema.FillOptionsT())
    moved = writer.integers(np.zeros((1, 1, 1, 7)))
    condition = first + 1
    if most is None:
        _loop(writer, first, condition, [writer.integers(0), end, last, lhs, cache, moved, zeros], out)
        return
    few, by_blocks, so_far = writer.tensor([], _B), writer.tensor([], _I), writer.like(out)
    writer.add("LESS_EQUAL", [end, writer.integers(most)], [few], schema.LessEqualOptionsT())
    writer.add("SELECT_V2", [few, end, writer.integers(0)], [by_blocks], schema.SelectV2OptionsT())
    slot = _loop(writer, first, condition, [writer.integers(0), by_blocks, last, lhs, cache, moved, zeros], so_far)
    _loop(writer, first + 3, condition, [slot, end, last, *inputs, so_far], out)


def _loop(writer: GraphWriter, body: int, condition: int, state: list[int], out: int) -> int:
    """A WHILE over `state` whose product is `out`; returns the slot at which it ends."""
    options: Any = schema.WhileOptionsT()
    options.bodySubgraphIndex, options.condSubgraphIndex = body, condition
    slot, *unread = [*(writer.tensor([], _I) for _ in range(3)), *map(writer.like, state[3:6])]
    writer.add("WHILE", state, [slot, *unread, out], options)
    return slot


def _loop_state(model: Any, name: bytes, state: list[Any]) -> tuple[GraphWriter, list[int]]:
    """A graph and its inputs: slot, end, last slot where a block can begin, the composite's three, product so far."""
    writer = GraphWriter.new(model, name)
    inputs = [writer.tensor([], _I) for _ in range(3)]
    writer.graph.tensors += deepcopy(state)
    writer.graph.inputs = [*inputs, 3, 4, 5, 6]
    return writer, [*writer.graph.inputs]


def _more_slots(model: Any, state: list[Any]) -> Any:
    writer, inputs = _loop_state(model, b"more_slots", state)
    more = writer.tensor([], _B)
    writer.add("LESS", inputs[:2], [more], schema.LessOptionsT())
    writer.graph.outputs = [more]
    return writer.graph


def _block_turn(
    model: Any, state: list[Any], product: Any, composite: Any, product_index: int, block: int, *, is_value: bool
) -> Any:
    """One turn of the loop: the product of one block, added to what there is."""
    writer, inputs = _loop_state(model, b"one_block", state)
    slot, _, last, _, _, parameters, so_far = inputs
    part = writer.tensor(shape_of(product.tensors[int(product.outputs[0])]), _F)
    _add_composite(writer, composite, product_index, part, is_value=is_value)
    total, following, moved = writer.like(so_far), writer.tensor([], _I), writer.like(parameters)
    if is_value:
        writer.add("ADD", [so_far, part], [total], schema.AddOptionsT())
    else:
        start = writer.tensor([], _I)
        writer.add("MINIMUM", [slot, last], [start], schema.MaximumMinimumOptionsT())
        writer.add("DYNAMIC_UPDATE_SLICE", [so_far, part, writer.begin(3, start)], [total], None)
    writer.add("ADD", [slot, writer.integers(block)], [following], schema.AddOptionsT())
    step = writer.integers([[[[block, 0, 0, 0, 0, 0, 0]]]])
    writer.add("ADD", [parameters, step], [moved], schema.AddOptionsT())
    writer.graph.outputs = [following, *inputs[1:5], moved, total]
    return writer.graph


def _whole_turn(model: Any, state: list[Any], composite: Any, product_index: int) -> Any:
    """The only turn of a loop over all slots at once, which begins at slot 0."""
    writer, inputs = _loop_state(model, b"all_slots", state)
    slot, end, *_, so_far = inputs
    total, following = writer.like(so_far), writer.tensor([], _I)
    _add_composite(writer, composite, product_index, total, is_value=False)
    writer.add("ADD", [slot, end], [following], schema.AddOptionsT())
    writer.graph.outputs = [following, *inputs[1:6], total]
    return writer.graph


def _add_composite(writer: GraphWriter, composite: Any, decomposition: int, out: int, *, is_value: bool) -> None:
    """`composite` on the loop's state, with another decomposition.

    Opened, it would save the CPU 4 % of a draft step, but LiteRT-LM's GPU backend (0.18.1) then loads no such model.
    """
    lhs, cache, parameters = writer.graph.inputs[3:6]
    # LiteRT-LM keeps tensors of these names where the composite's kernel wants them.
    writer.graph.tensors[cache].name = b"kv_cache_v_0" if is_value else b"kv_cache_k_0"
    writer.graph.tensors[parameters].name = PARAM_TENSOR.encode()
    operator = deepcopy(composite)
    operator.inputs, operator.outputs = [lhs, cache, parameters], [out]
    operator.builtinOptions2.decompositionSubgraphIndex = decomposition
    writer.graph.operators.append(operator)


def _shorten(model: Any, graph: Any, axes: dict[int, int], block: int) -> None:
    """Give every tensor that runs along the slots `block` of them; `axes` says where the inputs do."""
    for operator in graph.operators:
        read, out = [int(tensor) for tensor in operator.inputs], int(operator.outputs[0])
        if operator_code(model, operator) == schema.BuiltinOperator.BATCH_MATMUL:
            if axes.get(read[1]) == 2:
                axes[out] = 3
            continue
        along = [axes[tensor] for tensor in read if tensor in axes and _same_shape(graph, tensor, out)]
        if along:
            axes[out] = along[0]
    for tensor, axis in axes.items():
        shape = shape_of(graph.tensors[tensor])
        shape[axis] = block
        graph.tensors[tensor].shape = np.array(shape, np.int32)


def _same_shape(graph: Any, one: int, other: int) -> bool:
    return shape_of(graph.tensors[one]) == shape_of(graph.tensors[other])
