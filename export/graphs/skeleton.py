"""Skeleton flatbuffers: merge separately traced signatures into one model and mend what the converter cannot say.

A skeleton holds the graphs of a model with every weight still an input. It depends on configurations and options
only, so it is small, quick to parse and can be kept for the next export.
"""

from __future__ import annotations

import math
from copy import copy
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from ...runtime.bundle.flatbuffer import operator_code, parse
from .tracing.trace import INPUT_PREFIX


def merge(parts: list[bytes]) -> Any:
    """One model with the signatures of all `parts`, in their order, every entry's graph before its composites."""
    models = [parse(part) for part in parts]
    merged = models[0]
    for model in models[1:]:
        buffers, codes, graphs = len(merged.buffers), len(merged.operatorCodes), len(merged.subgraphs)
        for graph in model.subgraphs:
            for tensor in graph.tensors:
                tensor.buffer = tensor.buffer + buffers if tensor.buffer else 0
            for operator in graph.operators:
                operator.opcodeIndex += codes
                if isinstance(operator.builtinOptions2, schema.StableHLOCompositeOptionsT):
                    operator.builtinOptions2.decompositionSubgraphIndex += graphs
        for signature in model.signatureDefs:
            signature.subgraphIndex += graphs
        merged.buffers += model.buffers
        merged.operatorCodes += model.operatorCodes
        merged.subgraphs += model.subgraphs
        merged.signatureDefs += model.signatureDefs
    merged.description = b"gemma-mtp-export"
    for signature in merged.signatureDefs:
        _strip_input_prefix(signature, merged.subgraphs[signature.subgraphIndex])
    return merged


def _strip_input_prefix(signature: Any, graph: Any) -> None:
    for entry in signature.inputs:
        name = entry.name.decode()
        if name.startswith(INPUT_PREFIX):
            entry.name = name.removeprefix(INPUT_PREFIX).encode()
            graph.tensors[entry.tensorIndex].name = entry.name


def gather_rows(model: Any) -> None:
    """Turn every EMBEDDING_LOOKUP in a float32 table into the GATHER that it is, and every one in a float16 table, or
    in a quantized one with one scale, into a GATHER of what it holds and a DEQUANTIZE of what was gathered.

    LiteRT-LM's GPU backend (0.18.1) aborts the process on a lookup in a float32 table, be it computed or a constant
    behind the flatbuffer; it takes the lookup in an int8 table, and both forms of GATHER. The CPU's lookup opens codes
    one by one (ai-edge-litert 2.3.0), while GATHER copies whole rows, and XNNPACK dequantizes them. torch has no
    operator that lowers to GATHER: `embedding` becomes EMBEDDING_LOOKUP, and `index_select` GATHER_ND with bounds
    checks, which that backend rejects.
    """
    for graph in model.subgraphs:
        operators = []
        for operator in graph.operators:
            operators.append(operator)
            if operator_code(model, operator) != schema.BuiltinOperator.EMBEDDING_LOOKUP:
                continue
            ids, table = operator.inputs
            tensor = graph.tensors[int(table)]
            is_float = tensor.type == schema.TensorType.FLOAT32
            is_quantized = not is_float and tensor.type != schema.TensorType.FLOAT16
            if is_quantized and (tensor.quantization.scale is None or len(tensor.quantization.scale) > 1):
                continue
            operator.opcodeIndex = _code(model, schema.BuiltinOperator.GATHER, version=1 if is_float else 2)
            operator.inputs = [table, ids]
            operator.builtinOptionsType = schema.BuiltinOptions.GatherOptions
            operator.builtinOptions = schema.GatherOptionsT()
            if not is_float:
                operators.append(_dequantize_output(model, graph, operator, tensor))
        graph.operators = operators


def open_half_floats(model: Any) -> None:
    """Put a DEQUANTIZE between every float16 weight and the products that take it, once a graph."""
    for graph in model.subgraphs:
        opened: dict[int, int] = {}
        before = []
        for operator in graph.operators:
            if operator_code(model, operator) != schema.BuiltinOperator.FULLY_CONNECTED:
                continue
            weight = int(operator.inputs[1])
            if graph.tensors[weight].type != schema.TensorType.FLOAT16:
                continue
            if weight not in opened:
                values: Any = copy(graph.tensors[weight])
                values.name, values.type, values.buffer = values.name + b"/float32", schema.TensorType.FLOAT32, 0
                opened[weight] = len(graph.tensors)
                graph.tensors.append(values)
                before.append(_dequantize(model, [weight], [opened[weight]]))
            operator.inputs = [opened[weight] if int(index) == weight else index for index in operator.inputs]
        graph.operators = [*before, *graph.operators]


def fill_instead_of_broadcast(model: Any) -> None:
    """Turn every BROADCAST_TO of one constant value into a FILL, which the CPU does many times faster."""
    for graph in model.subgraphs:
        for operator in graph.operators:
            if operator_code(model, operator) != schema.BuiltinOperator.BROADCAST_TO:
                continue
            value, shape = (int(index) for index in operator.inputs)
            tensor = graph.tensors[value]
            data = model.buffers[tensor.buffer].data
            if data is None or math.prod(tensor.shape) != 1:
                continue
            scalar = copy(tensor)
            scalar.shape, scalar.shapeSignature = [], None
            graph.tensors.append(scalar)
            operator.opcodeIndex = _code(model, schema.BuiltinOperator.FILL, version=1)
            operator.inputs = [shape, len(graph.tensors) - 1]
            operator.builtinOptionsType = schema.BuiltinOptions.FillOptions
            operator.builtinOptions = schema.FillOptionsT()


def _dequantize_output(model: Any, graph: Any, operator: Any, like: Any) -> Any:
    """Let `operator` write codes of the type and scale of tensor `like`; what turns them into its former output."""
    (output,) = operator.outputs
    codes: Any = schema.TensorT()
    codes.shape, codes.type, codes.quantization = graph.tensors[int(output)].shape, like.type, like.quantization
    codes.name, codes.buffer = graph.tensors[int(output)].name + b"/codes", 0
    operator.outputs = [len(graph.tensors)]
    graph.tensors.append(codes)
    return _dequantize(model, operator.outputs, [output])


def _dequantize(model: Any, inputs: Any, outputs: Any) -> Any:
    dequantize: Any = schema.OperatorT()
    dequantize.opcodeIndex = _code(model, schema.BuiltinOperator.DEQUANTIZE, version=2)
    dequantize.inputs, dequantize.outputs = inputs, outputs
    return dequantize


def _code(model: Any, builtin: int, version: int) -> int:
    """Index of an operator code of `model`, which is added if there is none."""
    for index, code in enumerate(model.operatorCodes):
        if (code.builtinCode, code.version) == (builtin, version):
            return index
    code: Any = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = builtin
    code.version = version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1
