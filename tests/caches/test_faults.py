"""Wrong scales, planted one at a time into a bundle with int8 caches, are named by `verify`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers

from gemma_mtp.export.checkpoint.pair import open_pair
from gemma_mtp.export.parity import open_oracle
from gemma_mtp.runtime.bundle.flatbuffer import operator_name
from gemma_mtp.runtime.errors import UserError
from gemma_mtp.runtime.parity.oracle.oracle import Oracle
from gemma_mtp.runtime.parity.report.report import Report
from gemma_mtp.runtime.parity.verify import VerifyOptions, verify
from gemma_mtp.runtime.text.prompts import Prompt
from tests.conftest import DRAFTER, TARGET, BundleOf, HeldOutPrompt
from tests.support.faults import Fault, planted
from tests.support.surgery import Surgery

UPDATE, PRODUCT = "odml.cache_update", "odml.runtime_bmm"


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return open_oracle(open_pair(str(TARGET), str(DRAFTER)))


@pytest.fixture(scope="module")
def options(prompts: list[HeldOutPrompt]) -> VerifyOptions:
    return VerifyOptions(tuple(Prompt(text=p.text) for p in prompts[8:10]), max_tokens=16, stock=False, threads=2)


def check(report: Report, name: str) -> Any:
    return next(c for stage in report.stages for c in stage.checks if c.name == name)


@pytest.mark.parametrize("name", ["kv_fp16", "kv_int8", "all_int8"])
def test_sound_bundle_passes(name: str, bundle_of: BundleOf, oracle: Oracle, options: VerifyOptions) -> None:
    # Beyond the window and the first blocks; int8 caches to the context's end.
    seen = options if name == "kv_int8" else replace(options, probe_tokens=144)
    report = verify(bundle_of(name), oracle, seen)
    assert report.passed, report.summary()
    assert check(report, "bit for bit equal").value == "yes"
    assert report.about["limits"]["name"].endswith(f"{'float16' if name == 'kv_fp16' else 'int8'} caches")


def composites(model: Surgery, graph: Any, name: str) -> Iterator[Any]:
    yield from (operator for operator in graph.operators if operator_name(model.model, operator) == name)


def set_attribute(operator: Any, attribute: str, factor: float) -> None:
    options = operator.builtinOptions2
    attributes = flexbuffers.Loads(bytes(bytearray(options.compositeAttributes)))
    attributes[attribute] *= factor
    options.compositeAttributes = np.frombuffer(bytes(flexbuffers.Dumps(attributes)), np.uint8)


def attribute(signature: str, name: str, attribute: str) -> Callable[[Surgery], None]:
    """One operator's attribute, which only the GPU reads."""

    def plant(model: Surgery) -> None:
        graph = next(graph for entry, graph in model.entries() if entry.signatureKey == signature.encode())
        set_attribute(next(composites(model, graph, name)), attribute, 1.25)

    return plant


def tensors(factor: float, signature: str = "") -> Callable[[Surgery], None]:
    """Every scale, in one signature or all: tensors in and inside the composites, attributes."""

    def plant(model: Surgery) -> None:
        graphs = [graph for entry, graph in model.entries() if signature in entry.signatureKey.decode()]
        inner: dict[int, Any] = {}  # Composites with the same caches' scale share a decomposition.
        for graph in graphs:
            for name, attributes in ((UPDATE, ("scale_k", "scale_v")), (PRODUCT, ("scale",))):
                for operator in composites(model, graph, name):
                    index = operator.builtinOptions2.decompositionSubgraphIndex
                    inner[index] = model.model.subgraphs[index]
                    stored = flexbuffers.Loads(bytes(bytearray(operator.builtinOptions2.compositeAttributes)))
                    for attribute in attributes:
                        if attribute in stored:
                            set_attribute(operator, attribute, factor)
        changed = 0
        for graph in (*graphs, *inner.values()):
            for tensor in graph.tensors:
                if tensor.type == schema.TensorType.INT8 and tensor.quantization is not None:
                    tensor.quantization.scale = np.array(tensor.quantization.scale, np.float32) * np.float32(factor)
                    changed += 1
        assert changed

    return plant


def no_scale(model: Surgery) -> None:
    """The update's attributes are gone, as in a graph that was made for the CPU."""
    for _, graph in model.entries():
        for operator in composites(model, graph, UPDATE):
            options = operator.builtinOptions2
            stored = flexbuffers.Loads(bytes(bytearray(options.compositeAttributes)))
            kept = {name: value for name, value in stored.items() if not name.startswith("scale")}
            options.compositeAttributes = np.frombuffer(bytes(flexbuffers.Dumps(kept)), np.uint8)


FAULTS = {
    "another scale in one signature": ("prefill_decode", tensors(1.25, "verify"), "verify, input"),
    "another scale in the drafter": ("mtp_drafter", tensors(1.25), "mtp_drafter, input"),
    "another attribute of an update": (
        "prefill_decode", attribute("decode", UPDATE, "scale_k"), "decode, scale_k of odml.cache_update",
    ),
    "another attribute of the drafter's product": (
        "mtp_drafter", attribute("mtp_drafter", PRODUCT, "scale"), "mtp_drafter, scale of odml.runtime_bmm",
    ),
    "updates without scales": ("prefill_decode", no_scale, "names no scale for kv_cache_k_0"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_places_that_disagree_are_named(
    name: str, kv_int8: Path, oracle: Oracle, options: VerifyOptions, tmp_path: Path
) -> None:
    model, plant, said = FAULTS[name]
    faulty = planted(kv_int8, Fault(model, plant, "contract"), tmp_path / "faulty")
    report = verify(faulty, oracle, options)
    assert report.first_failure == "contract", report.summary()
    found = check(report, "caches: one scale each, wherever it is named")
    assert said in found.value


def test_scale_that_is_wrong_everywhere_is_named_by_what_it_loses(
    kv_int8: Path, oracle: Oracle, options: VerifyOptions, tmp_path: Path
) -> None:
    faulty = kv_int8
    for model in ("prefill_decode", "mtp_drafter"):
        faulty = planted(faulty, Fault(model, tensors(0.3), "prefill"), tmp_path / model)
    report = verify(faulty, oracle, options)
    assert report.first_failure == "prefill", report.summary()


def test_caches_without_a_scale_cannot_be_compared(
    kv_int8: Path, oracle: Oracle, options: VerifyOptions, tmp_path: Path
) -> None:
    def nowhere(model: Surgery) -> None:
        no_scale(model)
        for graph in model.model.subgraphs:
            for tensor in graph.tensors:
                if tensor.type == schema.TensorType.INT8:
                    tensor.quantization = None

    faulty = planted(kv_int8, Fault("prefill_decode", nowhere, "contract"), tmp_path / "faulty")
    with pytest.raises(UserError, match="with a scale that the file does not name"):
        verify(faulty, oracle, options)
