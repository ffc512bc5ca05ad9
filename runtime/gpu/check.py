"""Whether LiteRT-LM's GPU backend takes a bundle's graphs, read from the graphs alone; no GPU is needed.

Operators are looked up in the table of operators.py. The rules on caches and masks are those under which stock
LiteRT-LM (0.18.1) gave the same text on its CPU and GPU backends: breaking them loads, or nearly so, and then fails or
gives another text.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from ..bundle.flatbuffer import operator_name, parse
from ..bundle.names import CACHE_UPDATE, MTP_DRAFTER, PARAM_TENSOR, PREFILL_DECODE, RUNTIME_BMM, is_cache
from ..errors import UserError
from .operators import Operand, Operator, find_row

# What LiteRT-LM runs on its GPU backend; embedders and the rest run on the CPU.
GPU_MODELS = (PREFILL_DECODE, MTP_DRAFTER)
# Operands of the composites that may be a cache, and the one that is param_tensor.
_CACHE_OPERANDS = {CACHE_UPDATE: (3, 4), RUNTIME_BMM: (1,)}
_PARAMETER_OPERAND = 2
_RESHAPING = ("RESHAPE", "TRANSPOSE")
_SELECTS = ("SELECT", "SELECT_V2")
_TYPE_NAMES = {value: name.lower() for name, value in vars(schema.TensorType).items() if isinstance(value, int)}


@dataclass(frozen=True)
class Finding:
    """Why a graph is not known to run: the operator, the tensor that it is about, and the reason."""

    operator: str
    tensor: str
    reason: str

    def __str__(self) -> str:
        return f"{self.operator} ({self.tensor}) {self.reason}" if self.tensor else f"{self.operator} {self.reason}"


@dataclass(frozen=True)
class GraphReport:
    """One signature: how many operators it has and why the GPU backend would not run it, or not rightly."""

    model: str
    signature: str
    operators: int
    findings: tuple[Finding, ...]

    @property
    def taken(self) -> bool:
        return not self.findings


@dataclass(frozen=True)
class Graph:
    """A signature's graph; tensors go by their index in it."""

    signature: str
    names: tuple[str, ...]
    operators: tuple[tuple[Operator, tuple[int, ...], tuple[int, ...]], ...]
    inputs: dict[str, int]
    outputs: dict[str, int]

    @property
    def caches(self) -> dict[str, int]:
        """Cache inputs."""
        return {name: index for name, index in self.inputs.items() if is_cache(name)}


def check_model(name: str, content: bytes | memoryview | mmap.mmap) -> list[GraphReport]:
    """A report for each signature of `content`, the .tflite model that the bundle holds as `name`.

    Raises:
        UserError: not a readable model.
    """
    return [_check(name, graph) for graph in read_graphs(content, name)]


def read_graphs(content: bytes | memoryview | mmap.mmap, where: str) -> list[Graph]:
    """The graph of every signature; `where` names the model in errors.

    Raises:
        UserError: not a readable model.
    """
    try:
        model = parse(content)
        return [_graph(model, signature) for signature in model.signatureDefs]
    except Exception as error:  # The flatbuffer reader fails in many ways on bytes that are no model.
        raise UserError(f"{where}: its graphs cannot be read ({error}); export the model again") from error


def _graph(model: Any, signature: Any) -> Graph:
    graph = model.subgraphs[signature.subgraphIndex]
    named = [(operator, operator_name(model, operator)) for operator in graph.operators]
    makers = {int(index): name for operator, name in named for index in operator.outputs}
    inputs = {entry.name.decode(): entry.tensorIndex for entry in signature.inputs}

    def operand(index: int) -> Operand:
        tensor = graph.tensors[index]
        buffer = model.buffers[tensor.buffer]
        inside = tensor.buffer != 0 and buffer.data is not None and len(buffer.data) > 0
        stored = inside or (tensor.buffer != 0 and buffer.offset > 1)
        details = tensor.quantization.detailsType if tensor.quantization else schema.QuantizationDetails.NONE
        shape = tuple(int(size) for size in tensor.shape) if tensor.shape is not None else ()
        blockwise = details == schema.QuantizationDetails.BlockwiseQuantization
        constant = stored and index not in makers
        dtype = _TYPE_NAMES.get(tensor.type, "?")
        return Operand(tensor.name.decode(), shape, dtype, constant, inside, blockwise, makers.get(index))

    operators = []
    for operator, name in named:
        read = tuple(int(index) for index in operator.inputs)
        written = tuple(int(index) for index in operator.outputs)
        # An optional input that is left out has index -1.
        operands = tuple(operand(index) for index in read if index >= 0)
        operators.append((Operator(name, operands, tuple(map(operand, written))), read, written))
    return Graph(
        signature.signatureKey.decode(),
        tuple(tensor.name.decode() for tensor in graph.tensors),
        tuple(operators),
        inputs,
        {entry.name.decode(): entry.tensorIndex for entry in signature.outputs},
    )


def _check(model: str, graph: Graph) -> GraphReport:
    found = [*_operators(graph), *_parameters(graph), *_caches(graph), *_masks(graph)]
    return GraphReport(model, graph.signature, len(graph.operators), tuple(dict.fromkeys(found)))


def _operators(graph: Graph) -> Iterator[Finding]:
    for operator, _, _ in graph.operators:
        row = find_row(operator)
        if row is None:
            yield Finding(operator.name, _first(operator.outputs), "was not tried on the GPU")
        elif row.problem is not None:
            tensor = operator.outputs if row.operand is None else operator.inputs[row.operand :]
            yield Finding(operator.name, _first(tensor), f"{row.problem} [{row.tried_on}]")


def _parameters(graph: Graph) -> Iterator[Finding]:
    """Without param_tensor LiteRT-LM gives the caches other buffers, which the other graphs cannot take."""
    if not graph.caches:
        return
    given = graph.inputs.get(PARAM_TENSOR)
    if given is None:
        yield Finding(
            graph.signature, PARAM_TENSOR, f"takes no {PARAM_TENSOR}; LiteRT-LM then keeps caches it cannot share"
        )
    for operator, read, _ in graph.operators:
        if operator.name in _CACHE_OPERANDS and (len(read) <= _PARAMETER_OPERAND or read[_PARAMETER_OPERAND] != given):
            yield Finding(operator.name, _first(operator.outputs), "does not take the signature's param_tensor")


def _caches(graph: Graph) -> Iterator[Finding]:
    """Caches lie in a packed layout on the GPU, which other operators misread."""
    caches = dict.fromkeys(graph.caches.values())
    used: set[int] = set()
    for operator, read, written in graph.operators:
        allowed = {read[place] for place in _CACHE_OPERANDS.get(operator.name, ()) if place < len(read)}
        for index in read:
            if index in caches:
                used.add(index)
                if index not in allowed:
                    reason = f"reads a cache; only {CACHE_UPDATE} and {RUNTIME_BMM} understand its layout"
                    yield Finding(operator.name, graph.names[index], reason)
        if operator.name == CACHE_UPDATE:
            caches |= dict.fromkeys(written)
    for name, index in graph.caches.items():
        if index not in used:
            yield Finding(graph.signature, name, "takes a cache that no operator reads")
    for name, index in graph.outputs.items():
        if is_cache(name) and index not in caches:
            yield Finding(graph.signature, name, f"returns a cache that {CACHE_UPDATE} did not write")


def _masks(graph: Graph) -> Iterator[Finding]:
    """An added mask was taken whole by the delegate and gave another text."""
    makers = {index: (operator, read) for operator, read, written in graph.operators for index in written}

    def maker(index: int) -> tuple[Operator, tuple[int, ...]] | None:
        made = makers.get(index)
        while made and made[0].name in _RESHAPING:
            made = makers.get(made[1][0])
        return made

    for operator, read, _ in graph.operators:
        if operator.name != "SOFTMAX":
            continue
        made = maker(read[0])
        if made and made[0].name not in _SELECTS and any(_is_product(maker(index)) for index in made[1]):
            yield Finding(
                made[0].name, _first(made[0].outputs), "masks attention scores; only SELECT was seen to mask them right"
            )


def _is_product(made: tuple[Operator, tuple[int, ...]] | None) -> bool:
    return made is not None and made[0].name == RUNTIME_BMM


def _first(tensors: Iterable[Operand]) -> str:
    return next((tensor.name for tensor in tensors), "")
