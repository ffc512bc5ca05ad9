"""Skeleton flatbuffers: merge separately traced signatures into one model and mend what the converter cannot say.

A skeleton holds the graphs of a model with every weight still an input. It depends on configurations and options
only, so it is small, quick to parse and can be kept for the next export.
"""

from __future__ import annotations

from typing import Any

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from .trace import INPUT_PREFIX

_FILE_IDENTIFIER = b"TFL3"


def parse(content: bytes) -> Any:
    """Object form (`schema.ModelT`) of a flatbuffer."""
    return schema.ModelT.InitFromPackedBuf(content, 0)


def pack(model: Any) -> bytes:
    """Flatbuffer of an object-form model."""
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), _FILE_IDENTIFIER)
    return bytes(builder.Output())


def operator_code(model: Any, operator: Any) -> int:
    """Builtin code of `operator` (old files keep it in a field of eight bits)."""
    code = model.operatorCodes[operator.opcodeIndex]
    return max(code.builtinCode, code.deprecatedBuiltinCode)


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
    for graph in merged.subgraphs:
        _gather_from_computed_tables(merged, graph)
    return merged


def _strip_input_prefix(signature: Any, graph: Any) -> None:
    for entry in signature.inputs:
        name = entry.name.decode()
        if name.startswith(INPUT_PREFIX):
            entry.name = name.removeprefix(INPUT_PREFIX).encode()
            graph.tensors[entry.tensorIndex].name = entry.name


def _gather_from_computed_tables(model: Any, graph: Any) -> None:
    """Turn EMBEDDING_LOOKUP in a computed table into GATHER.

    torch has no operator that lowers to GATHER: `embedding` becomes this lookup, which makes LiteRT-LM's GPU backend
    abort, and `index_select` GATHER_ND with bounds checks, which it rejects.
    """
    computed = {int(index) for operator in graph.operators for index in operator.outputs}
    gather = None
    for operator in graph.operators:
        if operator_code(model, operator) != schema.BuiltinOperator.EMBEDDING_LOOKUP:
            continue
        ids, table = operator.inputs
        if int(table) not in computed:
            continue
        if gather is None:
            code = schema.OperatorCodeT()
            code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.GATHER
            code.version = 1
            gather = len(model.operatorCodes)
            model.operatorCodes.append(code)
        operator.opcodeIndex = gather
        operator.inputs = [table, ids]
        operator.builtinOptionsType = schema.BuiltinOptions.GatherOptions
        operator.builtinOptions = schema.GatherOptionsT()
