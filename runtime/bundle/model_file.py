"""Read a .tflite model without loading its weights: signatures, tensors, operators, stored formats."""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from ..errors import BundleError
from .cache_scales import StoredScale, read_scales
from .model_check import check_model
from .names import is_cache

TYPE_NAMES = {value: name.lower() for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
_OPERATOR_NAMES = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}


@dataclass(frozen=True)
class TensorInfo:
    """Name in the signature, shape and dtype (`float32`, `int8`, ...) of an input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class SignatureInfo:
    """One entry point, its inputs and outputs, and how often its graph (composites included) uses each operator."""

    name: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    operators: dict[str, int]

    def input(self, name: str) -> TensorInfo | None:
        """The input called `name`."""
        return next((tensor for tensor in self.inputs if tensor.name == name), None)

    def caches(self, *, written: bool) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and dtype of the KV cache tensors among the outputs (`written`) or the inputs."""
        tensors = self.outputs if written else self.inputs
        return {tensor.name: (tensor.shape, tensor.dtype) for tensor in tensors if is_cache(tensor.name)}


@dataclass(frozen=True)
class ModelInfo:
    """Signatures of a model, bytes of constant data by dtype, and every place that names an int8 cache's scale."""

    signatures: tuple[SignatureInfo, ...]
    constant_bytes: dict[str, int]
    cache_scales: tuple[StoredScale, ...] = ()

    def signature(self, name: str) -> SignatureInfo | None:
        """The signature called `name`."""
        return next((signature for signature in self.signatures if signature.name == name), None)


def read_model(content: memoryview | bytes | mmap.mmap, where: str) -> ModelInfo:
    """What a .tflite flatbuffer says of itself; `where` names it in errors.

    Raises:
        BundleError: not a readable flatbuffer, or one whose indices or sizes cannot be true.
    """
    try:
        if bytes(content[4:8]) != b"TFL3":
            raise ValueError("no TFL3 mark")
        check_model(content)
        model: Any = schema.Model.GetRootAs(content, 0)
        signatures = tuple(_signature(model, index) for index in range(model.SignatureDefsLength()))
        return ModelInfo(signatures, _constant_bytes(model), read_scales(model))
    except Exception as error:  # The flatbuffer reader fails in many ways on bytes that are no model.
        raise BundleError(f"{where}: not a readable .tflite model ({error})") from error


def read_model_file(path: Path) -> ModelInfo:
    """`read_model` of the file `path`, which is mapped, not read.

    Raises:
        BundleError: not a readable flatbuffer.
    """
    with path.open("rb") as file:
        try:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:  # An empty file.
            raise BundleError(f"{path}: not a readable .tflite model ({error})") from error
        with content:
            return read_model(content, str(path))


def _signature(model: Any, index: int) -> SignatureInfo:
    signature = model.SignatureDefs(index)
    graph = model.Subgraphs(signature.SubgraphIndex())

    def tensors(count: int, entry: Callable[[int], Any]) -> tuple[TensorInfo, ...]:
        return tuple(_tensor(graph, entry(position)) for position in range(count))

    return SignatureInfo(
        signature.SignatureKey().decode(),
        tensors(signature.InputsLength(), signature.Inputs),
        tensors(signature.OutputsLength(), signature.Outputs),
        dict(_operators(model, signature.SubgraphIndex())),
    )


def _tensor(graph: Any, entry: Any) -> TensorInfo:
    tensor = graph.Tensors(entry.TensorIndex())
    shape = tuple(int(size) for size in tensor.ShapeAsNumpy()) if tensor.ShapeLength() else ()
    return TensorInfo(entry.Name().decode(), shape, TYPE_NAMES.get(tensor.Type(), "?"))


def _operators(model: Any, graph_index: int) -> Counter[str]:
    """Operators of a graph; a composite counts under its own name, and its decomposition is not counted."""
    graph, found = model.Subgraphs(graph_index), Counter[str]()
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        code = model.OperatorCodes(operator.OpcodeIndex())
        name = _OPERATOR_NAMES.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), "?")
        if name == "STABLEHLO_COMPOSITE":
            options: Any = schema.StableHLOCompositeOptions()
            table = operator.BuiltinOptions2()
            options.Init(table.Bytes, table.Pos)
            name = options.Name().decode()
        elif name == "CUSTOM":
            name = code.CustomCode().decode()
        found[name] += 1
    return found


def _constant_bytes(model: Any) -> dict[str, int]:
    seen: dict[int, tuple[str, int]] = {}
    for graph_index in range(model.SubgraphsLength()):
        graph = model.Subgraphs(graph_index)
        for index in range(graph.TensorsLength()):
            tensor = graph.Tensors(index)
            buffer = model.Buffers(tensor.Buffer())
            size = max(buffer.DataLength(), int(buffer.Size()))
            if tensor.Buffer() and size:
                seen[tensor.Buffer()] = (TYPE_NAMES.get(tensor.Type(), "?"), size)
    totals: Counter[str] = Counter()
    for dtype, size in seen.values():
        totals[dtype] += size
    return dict(totals)


def dtype_size(dtype: str) -> int:
    """Bytes per element of a cache dtype."""
    return np.dtype(dtype).itemsize if dtype != "bfloat16" else 2
