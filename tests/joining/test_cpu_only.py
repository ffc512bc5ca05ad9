"""Bundles for the CPU alone, whose graphs have no composites and scatter the drafter's scores: as the ones for both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gemma_mtp.export.checkpoint.pair import open_pair
from gemma_mtp.export.graphs import inline
from gemma_mtp.export.parity import open_oracle
from gemma_mtp.runtime.bundle.flatbuffer import operator_name, parse
from gemma_mtp.runtime.parity.options import VerifyOptions
from gemma_mtp.runtime.parity.verify import verify
from gemma_mtp.runtime.stock import run_stock
from gemma_mtp.runtime.text.prompts import Prompt
from tests.conftest import CONTEXT, DRAFTER, TARGET, Exports, HeldOutPrompt
from tests.support.faults import DRAFTER as DRAFTER_MODEL
from tests.support.faults import Fault, planted
from tests.support.graph_runner import GraphRunner
from tests.support.surgery import Surgery

SHORT = 150


@pytest.fixture(scope="module")
def cpu_only(exports: Exports) -> Path:
    return exports("cpu-only", backends=("cpu",))


def operators(model: Any) -> set[str]:
    return {operator_name(model, operator) for graph in model.subgraphs for operator in graph.operators}


@pytest.mark.parametrize("name", ["prefill_decode", "mtp_drafter"])
def test_graphs_are_whole_and_no_more(name: str, cpu_only: Path, small_fp32: Path) -> None:
    both, alone = (parse((folder / f"{name}.tflite").read_bytes()) for folder in (small_fp32, cpu_only))
    composites = {kind for kind in operators(both) if kind.startswith("odml.")}
    assert composites >= {"odml.rms_norm", "odml.runtime_bmm"}
    assert not [kind for kind in operators(alone) if kind.startswith("odml.")]
    # What is left beside the signatures' own graphs are loops' bodies and conditions.
    loops = [o.builtinOptions for g in alone.subgraphs for o in g.operators if operator_name(alone, o) == "WHILE"]
    entries = {int(entry.subgraphIndex) for entry in alone.signatureDefs}
    run = {index for loop in loops for index in (loop.condSubgraphIndex, loop.bodySubgraphIndex)}
    assert entries | run == {*range(len(alone.subgraphs))}
    assert not entries & run
    for graph in alone.subgraphs:
        made = [*map(int, graph.inputs), *(int(index) for o in graph.operators for index in o.outputs)]
        assert len(made) == len({*made})
    if name == "mtp_drafter":
        assert ("SCATTER_ND" in operators(alone), "SCATTER_ND" in operators(both)) == (True, False)


def test_passes_give_the_same_bits(
    cpu_only: Path, small_fp32: Path, graph_runner: Callable[[Path], GraphRunner]
) -> None:
    tokens = torch.randint(20, 2000, (205,), generator=torch.Generator().manual_seed(3)).tolist()
    found = []
    for folder in (small_fp32, cpu_only):
        runner = graph_runner(folder)
        runner.prefill(tokens[:200])
        outputs = runner.target("verify", tokens[200:], 200)
        first, second = runner.draft(tokens[200], outputs["activations"][0, 0], 201, 2)
        found.append({**outputs, "first draft": first["logits"], "second draft": second["logits"]})
    for name, values in found[0].items():
        np.testing.assert_array_equal(values, found[1][name], err_msg=name)
    drafted = found[0]["second draft"]
    assert 0 < np.count_nonzero(drafted > -3e4) < drafted.size


@pytest.mark.parametrize(("kv_cache", "like"), [("fp32", "small_fp32"), ("int8", "kv_int8")])
def test_stock_writes_the_same_text_to_the_contexts_end(
    kv_cache: Any, like: str, exports: Exports, bundle_of, prompts: list[HeldOutPrompt]
) -> None:
    alone = exports("cpu-only" if kv_cache == "fp32" else "cpu-only-int8-caches", backends=("cpu",), kv_cache=kv_cache)
    texts = [prompt.text for prompt in prompts if SHORT - 56 <= len(prompt.tokens) <= SHORT - 12][:4]
    runs = [
        run_stock(folder / "model.litertlm", texts, speculative=mtp, context_length=SHORT)
        for folder in (bundle_of(like), alone)
        for mtp in (False, True)
    ]
    assert runs[2].texts == runs[0].texts
    assert runs[3].texts == runs[1].texts
    assert runs[3].acceptance_rate == runs[1].acceptance_rate
    assert len(set(runs[0].texts)) > 1


def _swapped_tokens(model: Surgery) -> None:
    tokens = model.weight("clustered_head.tokens")
    tokens[[0, 1]] = tokens[[1, 0]]


@pytest.mark.parametrize("fault", [None, Fault(DRAFTER_MODEL, _swapped_tokens, "weights")], ids=["sound", "faulty"])
def test_verify_reads_the_clusters_tokens(
    fault: Fault | None, cpu_only: Path, prompts: list[HeldOutPrompt], tmp_path: Path
) -> None:
    (prompt, *_) = [prompt for prompt in prompts if len(prompt.tokens) in range(105, CONTEXT - 20)]
    options = VerifyOptions(
        (Prompt(text=prompt.text),), max_tokens=8, probe_tokens=100, stock=False, stop_at_first_failure=True, threads=2
    )
    oracle = open_oracle(open_pair(str(TARGET), str(DRAFTER)))
    report = verify(planted(cpu_only, fault, tmp_path / "faulty") if fault else cpu_only, oracle, options)
    assert report.first_failure == (fault.stage if fault else None), report.summary()


def test_the_gpu_check_refuses_them(run, cpu_only: Path) -> None:
    code, output, _ = run("inspect", str(cpu_only / "model.litertlm"), "--backend", "gpu")
    assert code == 1
    assert "SCATTER_ND" in output


def test_a_composite_that_hands_an_operand_through_is_noticed(small_fp32: Path) -> None:
    model = parse((small_fp32 / "mtp_drafter.tflite").read_bytes())
    composite = next(o for o in model.subgraphs[0].operators if operator_name(model, o) == "odml.rms_norm")
    decomposition = model.subgraphs[composite.builtinOptions2.decompositionSubgraphIndex]
    decomposition.outputs = decomposition.inputs[:1]
    with pytest.raises(AssertionError, match="hands an operand through"):
        inline.inline_composites(model)
