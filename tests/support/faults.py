"""Faults that people have made in exports like these, planted one at a time into the shipped pair's bundle."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tests.support.surgery import Surgery

TARGET, DRAFTER, EMBEDDER = "prefill_decode", "mtp_drafter", "embedder"


@dataclass(frozen=True)
class Fault:
    """A change to one model of a bundle of `weights`, and the stage that must name it."""

    model: str
    plant: Callable[[Surgery], None]
    stage: str
    weights: str = "fp32"


def planted(sound: Path, fault: Fault, folder: Path) -> Path:
    """A copy of the export `sound` in the new `folder`, with the fault in it."""
    folder.mkdir()
    for file in sound.iterdir():
        os.link(file, folder / file.name)
    surgery = Surgery(folder / f"{fault.model}.tflite")
    fault.plant(surgery)
    surgery.save()
    return folder


def _transposed(name: str) -> Callable[[Surgery], None]:
    def plant(model: Surgery) -> None:
        weight = model.weight(name)
        weight[:] = weight.T.reshape(weight.shape).copy()

    return plant


def _swapped_layers(first: int, second: int) -> Callable[[Surgery], None]:
    def plant(model: Surgery) -> None:
        names = {
            t.name.decode() for _, graph in model.entries() for t in graph.tensors if t.name.startswith(b"layers.")
        }
        for name in sorted(name for name in names if name.startswith(f"layers.{first}.")):
            one = model.weight(name)
            other = model.weight(name.replace(f"layers.{first}.", f"layers.{second}.", 1))
            one[:], other[:] = other.copy(), one.copy()

    return plant


def _epsilon(model: Surgery) -> None:
    """1e-4 instead of 1e-6. (1e-5 changes no cache of the shipped pair by more than 1e-5 of its range.)"""
    changed = 0
    for graph in model.model.subgraphs:  # Composites have graphs of their own.
        for rsqrt in model.operators(graph, "RSQRT"):
            operator = model.producer(graph, rsqrt.inputs[0])
            while (
                len(operator.inputs) < 2 or model.constant(graph, operator.inputs[1]) is None or not _is_add(operator)
            ):
                operator = model.producer(graph, operator.inputs[0])
            model.set_constant(graph, operator.inputs[1], np.full(1, 1e-4, np.float32))
            changed += 1
    assert changed


def _is_add(operator: Any) -> bool:
    return operator.builtinOptionsType == schema.BuiltinOptions.AddOptions


def _rope(table: str, head_dim: int, theta: float, shift: int = 0) -> Callable[[Surgery], None]:
    def plant(model: Surgery) -> None:
        rope = model.weight(table)
        pairs = rope.shape[1] // 2
        frequencies = theta ** (-2 * np.arange(pairs) / head_dim)
        angles = (np.arange(len(rope))[:, None] + shift) * frequencies
        rope[:] = np.concatenate((np.cos(angles), np.sin(angles)), axis=1)

    return plant


def _later_position(model: Surgery) -> None:
    for table in ("rope.sliding", "rope.full"):
        rope = model.weight(table)
        rope[:-1] = rope[1:].copy()


def _window(change: int) -> Callable[[Surgery], None]:
    def plant(model: Surgery) -> None:
        for _, graph in model.entries():
            for less in model.operators(graph, "LESS"):
                model.set_constant(graph, less.inputs[1], model.constant(graph, less.inputs[1]) + np.int32(change))

    return plant


def _earlier_cache(model: Surgery) -> None:
    """The drafter reads the sliding layer before the last one with a cache."""
    for signature, _ in model.entries():
        layers = sorted({int(entry.name.split(b"_")[-1]) for entry in signature.inputs if b"kv_cache" in entry.name})
        for entry in signature.inputs:
            if entry.name in (f"kv_cache_{kind}_{layers[0]}".encode() for kind in "kv"):
                entry.name = entry.name.replace(str(layers[0]).encode(), str(layers[0] - 1).encode())


def _no_layer_scalar(model: Surgery) -> None:
    model.weight("layers.1.layer_scalar")[:] = 1


def _no_softcapping(model: Surgery) -> None:
    """tanh(x / cap) * cap with a cap so large that it does nothing."""
    for _, graph in model.entries():
        for tanh in model.operators(graph, "TANH"):
            before = model.producer(graph, tanh.inputs[0])
            after = next(operator for operator in graph.operators if int(tanh.outputs[0]) in map(int, operator.inputs))
            for operator, factor in ((before, 1e-3), (after, 1e3)):
                value = model.constant(graph, operator.inputs[1])
                model.set_constant(graph, operator.inputs[1], value * np.float32(factor))


def _no_embedding_scale(model: Surgery) -> None:
    for _, graph in model.entries():
        (scale,) = model.operators(graph, "MUL")
        model.set_constant(graph, scale.inputs[1], np.ones(1, np.float32))


def _shuffled_ordering(model: Surgery) -> None:
    places = model.weight("clustered_head.inverse_ordering")
    places[:] = np.random.default_rng(0).permutation(places)


def _activations_before_the_norm(model: Surgery) -> None:
    for signature, graph in model.entries():
        if any(entry.name == b"activations" for entry in signature.outputs):
            entry = model.output(signature, "activations")
            before = int(model.producer(graph, entry.tensorIndex).inputs[0])  # What the norm takes.
            graph.outputs = np.array([before if int(i) == entry.tensorIndex else i for i in graph.outputs], np.int32)
            entry.tensorIndex = before


def _mask_without_the_newest(model: Surgery, only: str = "") -> None:
    """No query sees its own slot: the mask is narrowed to the columns before each position."""
    for signature, graph in model.entries():
        if only not in signature.signatureKey.decode():
            continue
        mask = next(entry.tensorIndex for entry in signature.inputs if entry.name == b"mask")
        distance = model.operators(graph, "SUB")[0]
        positions, columns = distance.inputs
        less, select = model.operators(graph, "LESS")[0], model.operators(graph, "SELECT_V2")[0]
        is_before, narrowed = len(graph.tensors), len(graph.tensors) + 1
        for source in (less.outputs[0], select.outputs[0]):
            tensor = schema.TensorT()
            like = graph.tensors[int(source)]
            tensor.shape, tensor.type, tensor.buffer, tensor.name = like.shape, like.type, 0, like.name + b"'"
            graph.tensors.append(tensor)
        for operator in graph.operators:
            operator.inputs = np.array([narrowed if int(i) == mask else i for i in operator.inputs], np.int32)
        new = [
            _like(less, [columns, positions], [is_before]),
            _like(select, [is_before, mask, select.inputs[2]], [narrowed]),
        ]
        at = graph.operators.index(distance)
        graph.operators[at:at] = new


def _like(operator: Any, inputs: list[Any], outputs: list[int]) -> Any:
    copy = schema.OperatorT()
    copy.opcodeIndex = operator.opcodeIndex
    copy.builtinOptionsType, copy.builtinOptions = operator.builtinOptionsType, operator.builtinOptions
    copy.inputs, copy.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
    return copy


def _wrong_scale(model: Surgery) -> None:
    """One channel's scale, doubled."""
    for tensor in model.weight_tensors("layers.1.self_attn.v_proj.weight"):
        scales = np.array(tensor.quantization.scale, np.float32)
        scales[3] *= 2
        tensor.quantization.scale = scales


def _one_prefill_without_the_newest(model: Surgery) -> None:
    _mask_without_the_newest(model, "prefill_8")


FAULTS = {
    "a transposed weight": Fault(TARGET, _transposed("layers.1.self_attn.q_proj.weight"), "prefill"),
    "two swapped layers": Fault(TARGET, _swapped_layers(1, 2), "prefill"),
    "another RMSNorm epsilon": Fault(TARGET, _epsilon, "prefill"),
    "another RoPE base": Fault(TARGET, _rope("rope.sliding", 32, 11_000.0), "prefill"),
    "another partial rotary factor": Fault(TARGET, _rope("rope.full", 16, 1e6), "prefill"),
    "the target's window one wider": Fault(TARGET, _window(1), "prefill"),
    "the target's window one narrower": Fault(TARGET, _window(-1), "prefill"),
    "a mask without the newest token": Fault(TARGET, _mask_without_the_newest, "prefill"),
    "no layer scalar": Fault(TARGET, _no_layer_scalar, "prefill"),
    "one quantization scale doubled": Fault(TARGET, _wrong_scale, "prefill", "int8"),
    "no soft-capping": Fault(TARGET, _no_softcapping, "decode and verify"),
    "activations before the norm": Fault(TARGET, _activations_before_the_norm, "decode and verify"),
    "one prefill without the newest token": Fault(TARGET, _one_prefill_without_the_newest, "verify against decode"),
    "no embedding scale": Fault(EMBEDDER, _no_embedding_scale, "embedders"),
    "the cache of an earlier layer": Fault(DRAFTER, _earlier_cache, "contract"),
    "the drafter's window one wider": Fault(DRAFTER, _window(1), "drafter"),
    "the drafter's window one narrower": Fault(DRAFTER, _window(-1), "drafter"),
    "shuffled token_ordering": Fault(DRAFTER, _shuffled_ordering, "drafter"),
    "the drafter one position later": Fault(DRAFTER, _later_position, "drafter"),
}
