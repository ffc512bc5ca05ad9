"""The check of graphs for the GPU: what we export passes, and planted operators and wirings are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema

from gemma_mtp.export.graphs import bind
from gemma_mtp.runtime.bundle.flatbuffer import operator_name, pack, parse
from gemma_mtp.runtime.bundle.inspection import inspect_bundle
from gemma_mtp.runtime.errors import UserError
from gemma_mtp.runtime.gpu.check import Finding, check_model
from gemma_mtp.runtime.gpu.operators import TABLE
from gemma_mtp.runtime.stock import StockRuntimeError, run_stock
from tests.conftest import DRAFTER, TARGET, BundleOf, Exports
from tests.support.foreign import foreign_models
from tests.support.foreign import pack as pack_bundle


@pytest.mark.parametrize("export", ["small_fp32", "small_int8", "e4b", "dense_head"])
@pytest.mark.parametrize("model", ["prefill_decode", "mtp_drafter"])
def test_every_graph_is_one_that_the_gpu_backend_takes(export: str, model: str, bundle_of: BundleOf) -> None:
    reports = check_model(model, (bundle_of(export) / f"{model}.tflite").read_bytes())
    assert reports
    assert [report.findings for report in reports] == [()] * len(reports)


class Select(torch.nn.Module):
    def forward(self, table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return torch.index_select(table, 0, index)


class Lookup(torch.nn.Module):
    def forward(self, table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.embedding(index, table * 2)


class Clamp(torch.nn.Module):
    def forward(self, table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return table.clamp(0, 1) * 2 + index.sum()


class Sine(torch.nn.Module):
    def forward(self, table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return torch.sin(table) + index.sum()


class RowByRow(torch.nn.Module):
    """The rows of `x` `[..., 8, 4]` times a constant of one number for each, in as many axes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.arange(1.0, 9.0).reshape(*x.shape[:-1], 1)


PLANTED = [
    (Select(), "GATHER_ND", "is refused"),
    (Lookup(), "EMBEDDING_LOOKUP", "aborts on a computed table"),
    (Clamp(), "RELU_0_TO_1", "is refused"),
    (Sine(), "SIN", "was not tried"),
]


ARGUMENTS = (torch.zeros(8, 4), torch.zeros(3, dtype=torch.int32))


def converted(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...] = ARGUMENTS) -> bytes:
    import litert_torch

    return litert_torch.convert(module.eval(), arguments).model_content()


@pytest.mark.parametrize(("module", "operator", "reason"), PLANTED)
def test_planted_operator_is_named(module: torch.nn.Module, operator: str, reason: str) -> None:
    findings = check_model("model", converted(module))[0].findings
    assert any(f.operator == operator and f.tensor and f.reason.startswith(reason) for f in findings)


def test_constant_of_which_the_gpu_reads_one_row_is_named() -> None:
    """tests/gpu runs both."""
    (finding,) = check_model("model", converted(RowByRow(), (torch.zeros(8, 4),)))[0].findings
    assert (finding.operator, finding.reason.split(" of ")[0]) == ("MUL", "reads the first row only")
    assert check_model("model", converted(RowByRow(), (torch.zeros(1, 1, 8, 4),)))[0].findings == ()


def operators(model: Any, graph: Any, name: str) -> list[Any]:
    return [operator for operator in graph.operators if operator_name(model, operator) == name]


def rewire(operator: Any, place: int, tensor: int) -> None:
    operator.inputs = np.array([*operator.inputs[:place], tensor, *operator.inputs[place + 1 :]], dtype=np.int32)


def reshape_of_a_constant(model: Any, graph: Any) -> Finding:
    norm = next(i for i, tensor in enumerate(graph.tensors) if tensor.name == b"norm.weight")
    rewire(operators(model, graph, "RESHAPE")[0], 0, norm)
    return Finding("RESHAPE", "norm.weight", "is refused for a constant")


def blockwise_weights(model: Any, graph: Any) -> Finding:
    operator = operators(model, graph, "FULLY_CONNECTED")[0]
    tensor = graph.tensors[int(operator.inputs[1])]
    quantization: Any = schema.QuantizationParametersT()
    quantization.detailsType = schema.QuantizationDetails.BlockwiseQuantization
    quantization.details = schema.BlockwiseQuantizationT()
    tensor.quantization = quantization
    return Finding("FULLY_CONNECTED", tensor.name.decode(), "crashes on weights quantized blockwise")


def no_param_tensor(model: Any, graph: Any) -> Finding:
    signature = model.signatureDefs[0]
    signature.inputs = [entry for entry in signature.inputs if entry.name != b"param_tensor"]
    return Finding("mtp_drafter", "param_tensor", "takes no param_tensor")


def cache_read_by_another_operator(model: Any, graph: Any) -> Finding:
    cache = next(e.tensorIndex for e in model.signatureDefs[0].inputs if e.name == b"kv_cache_k_3")
    rewire(operators(model, graph, "ADD")[0], 0, cache)
    return Finding("ADD", "kv_cache_k_3", "reads a cache")


def unused_cache(model: Any, graph: Any) -> Finding:
    caches = {e.name: e.tensorIndex for e in model.signatureDefs[0].inputs if e.name.startswith(b"kv_cache_")}
    for operator in operators(model, graph, "odml.runtime_bmm"):
        if operator.inputs[1] == caches[b"kv_cache_k_4"]:
            rewire(operator, 1, caches[b"kv_cache_k_3"])
    return Finding("mtp_drafter", "kv_cache_k_4", "takes a cache that no operator reads")


def added_mask(model: Any, graph: Any) -> Finding:
    """The scores' SELECT becomes the operator code of an ADD."""
    add = operators(model, graph, "ADD")[0].opcodeIndex
    products = {int(op.outputs[0]) for op in operators(model, graph, "odml.runtime_bmm")}
    reshaped = {int(o.outputs[0]) for o in operators(model, graph, "RESHAPE") if int(o.inputs[0]) in products}
    select = next(
        operator
        for operator in operators(model, graph, "SELECT_V2")
        if (products | reshaped) & {int(index) for index in operator.inputs}
    )
    select.opcodeIndex = add
    return Finding("ADD", graph.tensors[int(select.outputs[0])].name.decode(), "masks attention scores")


@pytest.mark.parametrize(
    "plant",
    [
        reshape_of_a_constant,
        blockwise_weights,
        no_param_tensor,
        cache_read_by_another_operator,
        unused_cache,
        added_mask,
    ],
)
def test_planted_fault_in_the_drafter_is_named(plant: Callable[[Any, Any], Finding], small_int8: Path) -> None:
    model = parse((small_int8 / "mtp_drafter.tflite").read_bytes())
    expected = plant(model, model.subgraphs[model.signatureDefs[0].subgraphIndex])
    (report,) = check_model("mtp_drafter", pack(model))
    assert not report.taken
    assert any(
        (f.operator, f.tensor) == (expected.operator, expected.tensor) and f.reason.startswith(expected.reason)
        for f in report.findings
    )


def test_table_names_each_version_and_no_operator_twice() -> None:
    assert all(row.tried_on for row in TABLE)
    taken = [row.operator for row in TABLE if row.problem is None]
    assert len(taken) == len(set(taken))


@pytest.fixture
def foreign_bundle(tmp_path: Path) -> Path:
    """Caches read by ordinary products, and no param_tensor."""
    return pack_bundle(foreign_models(tmp_path), TARGET / "tokenizer.json", tmp_path / "foreign.litertlm")


def test_inspect_fails_on_a_bundle_that_the_gpu_would_misread(run, foreign_bundle: Path) -> None:
    code, output, _ = run("inspect", str(foreign_bundle), "--backend", "gpu")
    assert code == 1
    for said in ("verify: verify (param_tensor) takes no param_tensor", "reads a cache", "not known to run"):
        assert said in " ".join(output.split())
    code, output, _ = run("inspect", str(foreign_bundle), "--backend", "gpu", "--json")
    assert code == 1
    graphs = {graph["signature"]: graph for graph in json.loads(output)["gpu"]["graphs"]}
    assert {"operator": "verify", "tensor": "param_tensor"}.items() <= graphs["verify"]["findings"][0].items()


def test_inspect_passes_our_own_bundle(run, small_int8: Path) -> None:
    code, output, _ = run("inspect", str(small_int8 / "model.litertlm"), "--backend", "gpu")
    assert code == 0
    for said in ("verify", "runs on the CPU", "is known to take whole"):
        assert said in output
    code, output, _ = run("inspect", str(small_int8 / "model.litertlm"))
    assert code == 0
    assert "trial load" not in output


def test_export_for_one_backend_says_so_and_runs_there(exports: Exports, small_fp32: Path, prompts) -> None:
    bundle = exports("cpu-only", backends=("cpu",)) / "model.litertlm"
    items = {s.model_type: s.items.get("backend_constraint") for s in inspect_bundle(bundle).bundle.sections}
    assert items["prefill_decode"] == items["mtp_drafter"] == "cpu"
    assert items["embedder"] is None
    both = inspect_bundle(small_fp32 / "model.litertlm").bundle.sections
    assert all("backend_constraint" not in section.items for section in both)
    texts = [prompt.text for prompt in prompts[10:12]]
    run, expected = (run_stock(path, texts, speculative=True) for path in (bundle, small_fp32 / "model.litertlm"))
    assert run.texts == expected.texts
    assert run.acceptance_rate == expected.acceptance_rate
    with pytest.raises(StockRuntimeError, match="exit code 1"):
        run_stock(exports("gpu-only", backends=("gpu",)) / "model.litertlm", texts, speculative=False)


def test_graph_that_the_gpu_refuses_is_an_error_at_export(
    exports: Exports, small_fp32: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bind, "gather_rows", lambda model: None)
    with pytest.raises(UserError, match=r"--backends: the GPU would not run prefill_8 .*EMBEDDING_LOOKUP \(rope"):
        exports("refused")
    assert not (exports.folder / "refused").exists()
    assert (exports("refused-by-gpu", backends=("cpu",)) / "model.litertlm").exists()


@pytest.mark.parametrize("value", ["tpu", "", "cpu,,gpu", "cpu, npu"])
def test_unknown_backend_is_refused(value: str, run, tmp_path: Path) -> None:
    code, _, error = run("export", str(TARGET), str(DRAFTER), "-o", str(tmp_path / "out"), "--backends", value)
    assert code == 2
    assert error.startswith("Error: --backends: ")
    assert error.count("\n") == 1


def test_activations_without_a_gpu_are_refused(run, tmp_path: Path) -> None:
    choices = ("--backends", "cpu", "--activations", "fp16")
    code, _, error = run("export", str(TARGET), str(DRAFTER), "-o", str(tmp_path / "out"), *choices)
    assert code == 2
    assert "--activations" in error
