"""Faults that people have made in exports like these, planted one at a time into the shipped pair's bundle."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tests.support import graph_faults as graphs
from tests.support.sections import replace_model, section_content
from tests.support.surgery import Surgery, operator_like

TARGET, DRAFTER = "prefill_decode", "mtp_drafter"
EMBEDDER, PER_LAYER = "embedder", "per_layer_embedder"
BOTH = ("fp32", "int8")


@dataclass(frozen=True)
class Fault:
    """A change to one model of a bundle.

    Attributes:
        model: its type.
        plant: makes the change.
        stage: that must name it first.
        weights: formats in which it does.
        runs: the first stage that must name it of those that run the models, where another one comes before.
        runs_weights: formats in which that one does.
    """

    model: str
    plant: Callable[[Surgery], None]
    stage: str
    weights: tuple[str, ...] = ("fp32",)
    runs: str = ""
    runs_weights: tuple[str, ...] = ()


def of_weights(
    model: str,
    plant: Callable[[Surgery], None],
    runs: str,
    runs_weights: tuple[str, ...] = BOTH,
    weights: tuple[str, ...] = BOTH,
) -> Fault:
    """A fault in constants, all of which are compared before anything runs."""
    return Fault(model, plant, "weights", weights, runs, runs_weights)


def planted(sound: Path, fault: Fault, folder: Path) -> Path:
    """A new `folder` with the bundle of the export `sound` and the fault in it, and nothing else."""
    folder.mkdir()
    bundle = Path(shutil.copyfile(sound / "model.litertlm", folder / "model.litertlm"))
    plant(bundle, fault)
    return folder


def plant(bundle: Path, fault: Fault) -> None:
    """Put the fault into the model's section of `bundle`."""
    surgery = Surgery(section_content(bundle, fault.model))
    fault.plant(surgery)
    replace_model(bundle, fault.model, surgery.packed())


def _transposed(name: str) -> Callable[[Surgery], None]:
    def plant(model: Surgery) -> None:
        weight = model.weight(name)
        weight[:] = weight.T.reshape(weight.shape).copy()

    return plant


def _swapped_layers(first: int, second: int) -> Callable[[Surgery], None]:
    def plant(model: Surgery) -> None:
        names = {
            t.name.decode()
            for _, graph in model.entries()
            for t in graph.tensors
            if t.name.startswith(b"layers.") and t.buffer
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
    for table in ("rope.sliding.fine", "rope.full.fine"):
        rope = model.weight(table)
        rope[:-1] = rope[1:].copy()


def _earlier_cache(model: Surgery) -> None:
    """The drafter reads the sliding layer before the last one with a cache."""
    for signature, _ in model.entries():
        layers = sorted({int(entry.name.split(b"_")[-1]) for entry in signature.inputs if b"kv_cache" in entry.name})
        for entry in signature.inputs:
            if entry.name in (f"kv_cache_{kind}_{layers[0]}".encode() for kind in "kv"):
                entry.name = entry.name.replace(str(layers[0]).encode(), str(layers[0] - 1).encode())


def _no_layer_scalar(model: Surgery) -> None:
    model.weight("layers.1.layer_scalar")[:] = 1


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


def _mask_without_the_newest(model: Surgery) -> None:
    """No query sees its own slot: the causal mask is moved by one."""
    for _, graph in model.entries():
        shifted, narrowing = graphs.shifted_mask(model, graph), model.operators(graph, "SELECT_V2")[0]
        whole, causal = int(shifted.inputs[0]), int(narrowing.inputs[2])
        moved = model.tensor_like(graph, causal)
        one = model.constant_tensor(graph, np.array([0, 0, 0, 1], np.int32))
        at = graph.operators.index(shifted)
        later = graph.operators[at:]
        for operator in later:
            operator.inputs = np.array([moved if int(i) == causal else i for i in operator.inputs], np.int32)
        graph.operators[at:] = [operator_like(shifted, [whole, one, shifted.inputs[2]], [moved]), *later]


def _wrong_scale(model: Surgery) -> None:
    """One channel's scale, doubled."""
    for tensor in model.weight_tensors("layers.1.self_attn.v_proj.weight"):
        scales = np.array(tensor.quantization.scale, np.float32)
        scales[3] *= 2
        tensor.quantization.scale = scales


def _scaled_weight(name: str, factor: float) -> Callable[[Surgery], None]:
    def plant(model: Surgery) -> None:
        model.weight(name)[:] *= np.float32(factor)

    return plant


def _norm_of_one_plus(name: str) -> Callable[[Surgery], None]:
    """The weight is added to 1, as in earlier families."""

    def plant(model: Surgery) -> None:
        model.weight(name)[:] += 1

    return plant


def _rolled(name: str, axis: int, share: int) -> Callable[[Surgery], None]:
    """Rows or columns moved on by a `share`th of them."""

    def plant(model: Surgery) -> None:
        weight = model.weight(name)
        weight[:] = np.roll(weight, weight.shape[axis] // share, axis)

    return plant


def _turned_back(model: Surgery) -> None:
    """RoPE in the other direction; query and key still agree with each other."""
    for table in ("rope.sliding.fine", "rope.full.fine"):
        rope = model.weight(table)
        rope[:, rope.shape[1] // 2 :] *= -1


FAULTS = {
    "a transposed weight": of_weights(TARGET, _transposed("layers.1.self_attn.q_proj.weight"), "prefill"),
    "two swapped layers": of_weights(TARGET, _swapped_layers(1, 2), "prefill"),
    "another RMSNorm epsilon": Fault(TARGET, _epsilon, "prefill"),
    "another RoPE base": of_weights(TARGET, _rope("rope.sliding.fine", 32, 11_000.0), "prefill"),
    "another partial rotary factor": of_weights(TARGET, _rope("rope.full.fine", 16, 1e6), "prefill"),
    "RoPE turned back": of_weights(TARGET, _turned_back, "prefill"),
    "the target's window one wider": Fault(TARGET, graphs.window(1), "prefill"),
    "the target's window one narrower": Fault(TARGET, graphs.window(-1), "prefill"),
    "a sliding layer masks as a full one": Fault(TARGET, graphs.mask_of_another_kind(1, full=True), "prefill"),
    "a full layer masks as a sliding one": Fault(
        TARGET, graphs.mask_of_another_kind(4, full=False), "decode and verify"
    ),
    "a mask without the newest token": Fault(TARGET, _mask_without_the_newest, "prefill", BOTH),
    "scores divided by the head's root": Fault(TARGET, graphs.scaled_scores(32**-0.5), "prefill", BOTH),
    "a layer over another one's cache": Fault(TARGET, graphs.cache_of_another_layer(2, 1), "prefill", BOTH),
    "a sharing layer over another one's cache": Fault(
        TARGET, graphs.cache_of_another_layer(7, 2), "decode and verify", BOTH
    ),
    "keys where values belong": Fault(TARGET, graphs.keys_as_values(1), "prefill", BOTH),
    "rows written at slot 0": Fault(TARGET, graphs.writes_at_slot_0(), "prefill", BOTH),
    "no query norm": Fault(TARGET, graphs.without_norm("layers.1.self_attn.q_norm.weight"), "prefill", BOTH),
    "no value norm": Fault(TARGET, graphs.without_value_norm(1), "prefill", BOTH),
    "a norm by 1 + weight": of_weights(
        TARGET, _norm_of_one_plus("layers.1.input_layernorm.weight"), "prefill", ("fp32",)
    ),
    "no norm after the attention": Fault(
        TARGET, graphs.without_norm("layers.1.post_attention_layernorm.weight"), "prefill", BOTH
    ),
    "another GELU": Fault(TARGET, graphs.other_gelu, "prefill"),
    "no per-layer input in a layer": Fault(TARGET, graphs.without_per_layer_input(1), "prefill", BOTH),
    "no layer scalar": of_weights(TARGET, _no_layer_scalar, "prefill"),
    "one quantization scale doubled": of_weights(TARGET, _wrong_scale, "prefill", ("int8",), ("int8",)),
    "no soft-capping": Fault(TARGET, graphs.scaled_constant("TANH", 1e3), "decode and verify", BOTH),
    "soft-capping at a half more": Fault(TARGET, graphs.scaled_constant("TANH", 1.5), "decode and verify"),
    "the last norm 1.1 times": of_weights(TARGET, _scaled_weight("norm.weight", 1.1), "decode and verify"),
    "activations before the norm": Fault(TARGET, _activations_before_the_norm, "decode and verify", BOTH),
    "activations 1.1 times": Fault(TARGET, graphs.scaled_output("activations", 1.1), "decode and verify", BOTH),
    "logits 1.1 times": Fault(TARGET, graphs.scaled_output("logits", 1.1), "decode and verify", BOTH),
    "verify's logits one row later": Fault(TARGET, graphs.later_logits("verify"), "decode and verify", BOTH),
    "no embedding scale": Fault(EMBEDDER, _no_embedding_scale, "embedders", BOTH),
    "embeddings 1.01 times": Fault(EMBEDDER, graphs.scaled_constant("MUL", 1.01), "embedders", BOTH),
    "no per-layer embedding scale": Fault(PER_LAYER, _no_embedding_scale, "embedders", BOTH),
    "the cache of an earlier layer": Fault(DRAFTER, _earlier_cache, "contract", BOTH),
    "the drafter's window one wider": Fault(DRAFTER, graphs.window(1), "drafter"),
    "the drafter's window one narrower": Fault(DRAFTER, graphs.window(-1), "drafter"),
    "shuffled token_ordering": of_weights(DRAFTER, _shuffled_ordering, "drafter"),
    "centroids of other clusters": of_weights(DRAFTER, _rolled("masked_embedding.centroids.weight", 0, 2), "drafter"),
    "activation before embedding": of_weights(DRAFTER, _rolled("pre_projection.weight", 1, 2), "drafter"),
    "the drafter one position later": of_weights(DRAFTER, _later_position, "drafter", ("fp32",)),
    "no query norm in the drafter": Fault(
        DRAFTER, graphs.without_norm("layers.1.self_attn.q_norm.weight"), "drafter", BOTH
    ),
    "projected activations 1.1 times": Fault(
        DRAFTER, graphs.scaled_output("projected_activations", 1.1), "drafter", BOTH
    ),
}
# Faults in one signature of several alone: every other one is sound. The probe is prefilled by the longest one, and its
# last token by the shortest.
SIGNATURES = {
    "prefill_8": "prefill",
    "prefill_16": "verify against decode",
    "prefill_32": "prefill",
    "decode": "decode and verify",
    "verify": "decode and verify",
    "verify_2": "verify against decode",
    "verify_8": "verify against decode",
}
