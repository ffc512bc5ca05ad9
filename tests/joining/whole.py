"""A signature traced whole, as an oracle for graphs that are joined from parts; and what a graph says, to compare."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import numpy as np
import torch

from gemma_mtp.export.checkpoint.weights import Role
from gemma_mtp.export.graphs.signatures import Signature, Tensors
from gemma_mtp.export.graphs.tracing.converter import register_lowerings
from gemma_mtp.export.graphs.tracing.trace import INPUT_PREFIX, WEIGHT_PREFIX
from gemma_mtp.export.models.pieces import Directly
from gemma_mtp.runtime.bundle.flatbuffer import operator_name


class _Entry(torch.nn.Module):
    def __init__(self, signature: Signature) -> None:
        super().__init__()
        self.signature = signature

    def forward(self, weights: Tensors, inputs: Tensors) -> Tensors:
        return self.signature.function(weights, inputs, Directly())


def trace_whole(signature: Signature) -> bytes:
    """As `trace`, in one go and by the converter's own `convert`."""
    register_lowerings()
    samples = samples_of(signature)
    weights = {w.name: samples[WEIGHT_PREFIX + w.name] for w in signature.weights}
    inputs = {name: samples[INPUT_PREFIX + name] for name in signature.inputs}
    return converted(signature.name, _Entry(signature), {"weights": weights, "inputs": inputs})


def converted(name: str, module: torch.nn.Module, samples: dict[str, Tensors]) -> bytes:
    """As `to_flatbuffer`, by the converter's own `convert`."""
    import litert_torch

    model: Any = litert_torch.signature(name, module.eval(), sample_kwargs=samples).convert()
    return model.model_content()


def samples_of(signature: Signature, seed: int = 0) -> Tensors:
    """A value for every input of the traced graph: weights and activations at random, slots from the eleventh on."""
    generator = torch.Generator().manual_seed(seed)
    samples: Tensors = {}
    for weight in signature.weights:
        size = weight.shape[-1] ** -0.5 if weight.role is Role.LINEAR else 1.0
        value = torch.randn(weight.shape, generator=generator) * size
        if weight.role is Role.INDEX:
            count = math.prod(weight.shape)
            value = torch.randperm(count, generator=generator).to(torch.int32).reshape(weight.shape)
        samples[WEIGHT_PREFIX + weight.name] = value
    for name, spec in signature.inputs.items():
        value = torch.randn(spec.shape, generator=generator).to(spec.dtype)
        if name == "input_pos":
            value = torch.arange(11, 11 + spec.shape[0], dtype=torch.int32)
        elif name == "param_tensor":
            end = 11 + signature.inputs["input_pos"].shape[0]
            value = torch.tensor([11, end, end, 0, 0, 0, 0], dtype=torch.int32).reshape(spec.shape)
        elif name == "mask":
            rows = torch.arange(11, 11 + spec.shape[2]).reshape(1, 1, -1, 1)
            value = torch.where(torch.arange(spec.shape[3]) <= rows, 0.0, -1e30)
        elif name == "token_ids":
            value = torch.full(spec.shape, 7, dtype=spec.dtype)
        samples[INPUT_PREFIX + name] = value
    return samples


def said(model: Any, graph: int = 0) -> list[Hashable]:
    """What a subgraph of `model` (object form) says: its inputs, its operators in order, its outputs.

    Tensors are named by where they come from, so neither their numbers nor their names matter; constants are their
    values, composites say what their decompositions do.
    """
    tensors, lines = model.subgraphs[graph].tensors, []
    operators, inputs = model.subgraphs[graph].operators, model.subgraphs[graph].inputs
    if graph == 0:
        names = {int(entry.tensorIndex): entry.name for entry in model.signatureDefs[0].inputs}
    else:
        names = {int(index): f"input {place}".encode() for place, index in enumerate(inputs)}
    made: dict[int, Hashable] = {}

    def tensor(index: int) -> Hashable:
        if index < 0:
            return None
        found = tensors[index]
        data = model.buffers[found.buffer].data
        constant = None if data is None else bytes(bytearray(data))
        return names.get(index), made.get(index), constant or None, found.type, tuple(map(int, found.shape))

    for number, operator in enumerate(operators):
        made |= {int(index): (number, place) for place, index in enumerate(operator.outputs)}
        composite = operator.builtinOptions2
        decomposition = said(model, composite.decompositionSubgraphIndex) if composite else []
        attributes = bytes(bytearray(composite.compositeAttributes)) if composite else b""
        lines.append(
            (
                operator_name(model, operator),
                tuple(tensor(int(index)) for index in operator.inputs),
                tuple(tensor(int(index)) for index in operator.outputs),
                _options(operator.builtinOptions),
                attributes,
                tuple(decomposition),
            )
        )
    given = (
        sorted((tensor(int(index)) for index in inputs), key=repr) if graph == 0 else [tensor(int(i)) for i in inputs]
    )
    return [tuple(given), *lines, tuple(tensor(int(index)) for index in model.subgraphs[graph].outputs)]


def _options(options: Any) -> Hashable:
    values = vars(options).items() if options else ()
    return tuple((key, value.tobytes() if isinstance(value, np.ndarray) else value) for key, value in values)
