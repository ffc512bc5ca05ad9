"""Graphs joined from parts that are traced once each, against the same signatures traced whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ai_edge_litert.interpreter import Interpreter

from gemma_mtp.export.checkpoint.read_config import read_drafter_config, read_target_config
from gemma_mtp.export.graphs.joining.join import join
from gemma_mtp.export.graphs.joining.kit import Kit
from gemma_mtp.export.graphs.joining.recording import Recording, record
from gemma_mtp.export.graphs.signatures import (
    Signature,
    drafter_signature,
    per_layer_embedder_signature,
    target_signatures,
)
from gemma_mtp.export.graphs.tracing.converter import register_lowerings, to_flatbuffer
from gemma_mtp.export.graphs.tracing.trace import given_names, trace
from gemma_mtp.export.models.kv_cache import kv_signature
from gemma_mtp.export.models.lowerings import linear, row_products
from gemma_mtp.export.models.norm import rms_norm
from gemma_mtp.runtime.bundle.flatbuffer import parse
from tests.joining.whole import converted, said, samples_of, trace_whole
from tests.support.oracle import random_drafter, random_target

# The window of 8 is cut out of these slots.
SLOTS, DRAFT_TOKENS = 40, 2
# Two layers of each kind that there are: of each type, with caches of their own and without.
LAYERS = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention", "full_attention"]


def all_signatures(layers: list[str], shared: int) -> dict[str, Signature]:
    target = random_target(num_hidden_layers=len(layers), num_kv_shared_layers=shared, layer_types=layers)
    drafter = random_drafter(target, num_hidden_layers=3, num_kv_shared_layers=3, layer_types=LAYERS[:3])
    configs = read_target_config(target.config.to_dict(), ""), read_drafter_config(drafter.config.to_dict(), "")
    kv = kv_signature(*configs, SLOTS)
    made = [
        *target_signatures(configs[0], kv, prefill_lengths=(8,), draft_tokens=DRAFT_TOKENS),
        per_layer_embedder_signature(configs[0]),
        drafter_signature(*configs, kv),
    ]
    return {signature.name: signature for signature in made}


@pytest.fixture(scope="module")
def signatures() -> dict[str, Signature]:
    return all_signatures(LAYERS, 2)


@pytest.fixture(scope="module")
def joined(signatures: dict[str, Signature]):
    """A signature's joined graph; each traced once."""
    traced: dict[str, bytes] = {}

    def get(name: str) -> bytes:
        if name not in traced:
            traced[name] = trace(signatures[name])
        return traced[name]

    return get


def run(content: bytes, signature: Signature) -> dict[str, np.ndarray]:
    """Outputs of a model whose weights are inputs, with or without the prefix that inputs are traced with."""
    runner: Any = Interpreter(model_content=content).get_signature_runner(signature.name)
    samples = samples_of(signature)
    return runner(**{name: samples[name].numpy() for name in runner.get_input_details()})


NAMES = ["prefill_8", "decode", "verify", "per_layer_embedder", "mtp_drafter"]


@pytest.mark.parametrize("name", NAMES)
def test_joined_graph_equals_the_whole_one(name: str, signatures: dict[str, Signature], joined) -> None:
    """Operator by operator, in their order; and bit by bit in what comes out."""
    whole = trace_whole(signatures[name])
    for one, other in zip(said(parse(whole)), said(parse(joined(name))), strict=True):
        assert one == other
    expected, found = run(whole, signatures[name]), run(joined(name), signatures[name])
    assert expected.keys() == found.keys()
    for output, values in expected.items():
        assert np.isfinite(values).all()
        assert values.std() > 0
        np.testing.assert_array_equal(values, found[output], err_msg=output)


def test_entries_name_what_the_runtime_looks_for(joined) -> None:
    """Inputs and outputs by name, sorted; composites that are alike share a decomposition, behind the entry's graph."""
    model = parse(joined("mtp_drafter"))
    (entry,) = model.signatureDefs
    assert (entry.signatureKey, entry.subgraphIndex) == (b"mtp_drafter", 0)
    for side, indices in ((entry.inputs, model.subgraphs[0].inputs), (entry.outputs, model.subgraphs[0].outputs)):
        names = [tensor.name for tensor in side]
        assert names == sorted(names)
        assert {int(tensor.tensorIndex) for tensor in side} == set(map(int, indices))
    places = [o.builtinOptions2.decompositionSubgraphIndex for o in model.subgraphs[0].operators if o.builtinOptions2]
    assert set(places) == {*range(1, len(model.subgraphs))}
    assert len(places) > 2 * len(model.subgraphs)
    decompositions = [said(model, index) for index in range(1, len(model.subgraphs))]
    assert all(one not in decompositions[:index] for index, one in enumerate(decompositions))
    taken = {int(index) for operator in model.subgraphs[0].operators for index in operator.inputs}
    assert set(map(int, model.subgraphs[0].inputs)) <= taken


def test_parts_do_not_grow_with_layers(signatures: dict[str, Signature]) -> None:
    deep = all_signatures(LAYERS[:3] * 4 + LAYERS[3:] * 4, 8)["decode"]
    for signature, layers in ((signatures["decode"], 5), (deep, 20)):
        recording = record(signature)
        assert len(recording.parts) == 3 + 2 + 2 + 2 + 1  # Once, writes, attention, MLPs, the selection of a layer.
        names = [call.name for call in recording.calls]
        assert names.count(f"layers.{layers - 1}.add_mlp") == 1
        assert sum(name.endswith(".add_mlp") for name in names) == layers


@pytest.fixture(scope="module")
def kit(signatures: dict[str, Signature]) -> tuple[Recording, bytes]:
    """The drafter's parts, recorded and converted."""
    register_lowerings()
    recording = record(signatures["mtp_drafter"])
    parts = Kit(recording)
    return recording, to_flatbuffer("mtp_drafter", parts, parts.samples())


@pytest.mark.parametrize("fault", ["nothing", "another layer's weight", "another layer's input", "another cache"])
def test_wrong_connection_is_seen(
    fault: str, kit: tuple[Recording, bytes], signatures: dict[str, Signature], joined
) -> None:
    recording, content = kit
    names = [call.name for call in recording.calls]
    first, second, full = (recording.calls[names.index(f"layers.{layer}.add_attention")] for layer in range(3))
    assert first.part == second.part != full.part
    weights, inputs = len(recording.parts[second.part].weights), list(second.inputs)
    if fault == "another layer's weight":
        inputs[0] = first.inputs[0]
    elif fault == "another layer's input":
        inputs[weights] = first.inputs[weights]
    elif fault == "another cache":
        inputs[-2:] = full.inputs[-2:]
    calls = [replace(call, inputs=tuple(inputs)) if call is second else call for call in recording.calls]
    names = given_names(signatures["mtp_drafter"])
    found = join(parse(content), replace(recording, calls=calls), "mtp_drafter", names)
    assert (said(found) == said(parse(joined("mtp_drafter")))) == (fault == "nothing")


def test_what_is_computed_outside_all_pieces_is_refused(signatures: dict[str, Signature]) -> None:
    signature = signatures["per_layer_embedder"]
    stray = replace(signature, function=lambda weights, inputs, pieces: {"out": inputs["token_ids"] * 2})
    with pytest.raises(AssertionError, match="none of the signature's pieces"):
        record(stray)


class Norms(torch.nn.Module):
    """The same norms as one operator, and as the converter's own builder makes them."""

    def __init__(self, built: bool) -> None:
        super().__init__()
        self.built = built

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        norm = self.norm if self.built else rms_norm
        return {"a": norm(inputs["x"], inputs["weight"], 1e-6), "b": norm(inputs["x"], None, 1e-5)}

    def norm(self, x: torch.Tensor, weight: torch.Tensor | None, eps: float) -> torch.Tensor:
        from litert_torch.hlfb import StableHLOCompositeBuilder

        builder: Any = StableHLOCompositeBuilder(name="odml.rms_norm", attr={"epsilon": eps})
        x, scale = builder.mark_inputs(x, torch.ones(x.shape[-1]) if weight is None else weight)
        return builder.mark_outputs(x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * scale)


@pytest.mark.parametrize("shape", [(1, 1, 48), (1, 8, 4, 16)])
def test_norm_is_what_the_converters_builder_makes(shape: tuple[int, ...]) -> None:
    register_lowerings()
    samples = {"inputs": {"x": torch.randn(shape), "weight": torch.randn(shape[-1:])}}
    ours, built = (
        said(parse(to_flatbuffer("norms", Norms(False), samples))),
        said(parse(converted("norms", Norms(True), samples))),
    )
    assert ours == built


def einsum(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.einsum("abcd,abed->abce", x, y)


class Products(torch.nn.Module):
    def __init__(self, product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.product = product

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"z": torch.tanh(self.product(inputs["x"], inputs["y"]))}


@pytest.mark.parametrize(
    ("ours", "torchs", "shapes"),
    [
        *((linear, F.linear, (shape, (24, 16))) for shape in ((3, 16), (1, 1, 16), (1, 8, 16), (2, 4, 16))),
        *((row_products, einsum, ((1, heads, rows, 16), (1, heads, 24, 16))) for heads in (1, 2) for rows in (1, 8)),
    ],
)
def test_product_is_what_the_converter_makes_of_torchs(
    ours: Any, torchs: Any, shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    register_lowerings()
    samples = {"inputs": {name: torch.randn(shape) for name, shape in zip("xy", shapes, strict=True)}}
    found = said(parse(to_flatbuffer("products", Products(ours), samples)))
    assert found == said(parse(converted("products", Products(torchs), samples)))
