"""Every planted fault makes `verify` fail, and the report names the stage that the fault is in."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from gemma_mtp.export.checkpoint.pair import open_pair
from gemma_mtp.export.parity import open_oracle
from gemma_mtp.runtime.bundle.container import BundleFile
from gemma_mtp.runtime.bundle.model_file import read_model
from gemma_mtp.runtime.decoding.engine import Engine
from gemma_mtp.runtime.parity.options import VerifyOptions
from gemma_mtp.runtime.parity.oracle.oracle import Oracle
from gemma_mtp.runtime.parity.report.report import NOT_COMPARED, RUN, Report, Verdict
from gemma_mtp.runtime.parity.verify import STAGES, verify
from gemma_mtp.runtime.text.prompts import Prompt
from tests.conftest import CONTEXT, DRAFTER, TARGET, BundleOf, Exports, HeldOutPrompt
from tests.support import graph_faults as graphs
from tests.support.faults import FAULTS, SIGNATURES, Fault, planted
from tests.support.faults import TARGET as TARGET_MODEL
from tests.support.remembering import RememberingOracle
from tests.support.surgery import Surgery

PROBE = 100  # Tokens: well past the window, with several chunks of every prefill length.


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return RememberingOracle(open_oracle(open_pair(str(TARGET), str(DRAFTER))))


@pytest.fixture(scope="module")
def complete(prompts: list[HeldOutPrompt]) -> VerifyOptions:
    """All stages, on one prompt that is longer than the probe, which is therefore the same whatever the answer is."""
    (prompt, *_) = [prompt for prompt in prompts if len(prompt.tokens) in range(PROBE + 5, CONTEXT - 20)]
    return VerifyOptions((Prompt(text=prompt.text),), max_tokens=8, probe_tokens=PROBE, stock=False, threads=2)


@pytest.fixture(scope="module")
def options(complete: VerifyOptions) -> VerifyOptions:
    """Up to the first stage that fails."""
    return replace(complete, stop_at_first_failure=True)


@pytest.fixture(scope="module")
def found(request: pytest.FixtureRequest):
    """Verdict by fault; printed as a table when all are in."""
    rows: dict[str, tuple[str, Report]] = {}
    yield rows
    table = Table("planted fault", "expected in", "first failure", title="Planted faults", title_justify="left")
    for name, (stage, report) in rows.items():
        table.add_row(name, stage, report.summary().removeprefix("FAIL, first in "))
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        console = Console(width=160)
        console.print()
        console.print(table)


@pytest.mark.parametrize("weights", ["small_fp32", "small_int8"])
def test_sound_bundle_passes(weights: str, bundle_of: BundleOf, oracle: Oracle, complete: VerifyOptions) -> None:
    report = verify(bundle_of(weights), oracle, complete)
    assert report.passed, report.summary()
    assert weights == "small_int8" or report.near_ties == 0
    # A part of the stage was skipped, as the probe ends before the context does.
    ways = {(entry.section, entry.part): entry.how for entry in report.coverage}
    assert ways["prefill_decode", "graphs"] == RUN


@pytest.mark.parametrize(("name", "weights"), [(name, w) for name, fault in FAULTS.items() for w in fault.weights])
def test_fault_is_named(
    name: str, weights: str, bundle_of: BundleOf, tmp_path: Path, oracle: Oracle, options, complete, found
) -> None:
    fault: Fault = FAULTS[name]
    runs = (fault.runs,) if weights in fault.runs_weights else ()
    bundle = planted(bundle_of(f"small_{weights}"), fault, tmp_path / "faulty")
    report = verify(bundle, oracle, complete if runs else options)
    found[f"{name} ({weights})"] = (" and ".join((fault.stage, *runs)), report)
    failed = [stage.name for stage in report.stages if stage.verdict is Verdict.FAIL]
    assert failed[: 1 + len(runs)] == [fault.stage, *runs], report.summary()


def test_stopping_early_says_what_was_not_run(small_fp32: Path, tmp_path: Path, oracle: Oracle, options) -> None:
    report = verify(planted(small_fp32, FAULTS["no embedding scale"], tmp_path / "faulty"), oracle, options)
    verdicts = {stage.name: stage.verdict for stage in report.stages}
    assert verdicts["weights"] is Verdict.PASS
    assert verdicts["embedders"] is Verdict.FAIL
    later = STAGES[STAGES.index("embedders") + 1 :]
    assert {verdicts[name] for name in later} == {Verdict.SKIPPED}
    assert {f"{name}: everything" for name in later} <= set(report.skipped)
    ways = {(entry.section, entry.part): entry.how for entry in report.coverage}
    assert ways["embedder", "graphs"] == RUN
    assert ways["prefill_decode", "graphs"] == NOT_COMPARED


@pytest.fixture(scope="module")
def signatures(exports: Exports) -> Path:
    """A bundle with several prefill and verify lengths."""
    return exports("small-signatures", prefill=(16, 32), verify_lengths=(2, 8))


def test_all_signatures_are_tried(signatures: Path) -> None:
    bundle = BundleFile(signatures / "model.litertlm")
    target = read_model(bundle.content(bundle.model_sections()["prefill_decode"]), "target")
    assert {signature.name for signature in target.signatures} == SIGNATURES.keys()


@pytest.mark.parametrize("change", ["window", "slot 0"])
@pytest.mark.parametrize("name", SIGNATURES)
def test_fault_in_one_signature_alone_is_named(
    name: str, change: str, signatures: Path, tmp_path: Path, oracle: Oracle, options: VerifyOptions, found
) -> None:
    plant = graphs.window(1, name) if change == "window" else graphs.writes_at_slot_0(name)
    report = verify(planted(signatures, Fault(TARGET_MODEL, plant, ""), tmp_path / "faulty"), oracle, options)
    found[f"{change} in {name} alone"] = (SIGNATURES[name], report)
    assert report.first_failure == SIGNATURES[name], report.summary()


def test_signature_that_never_runs_is_named(small_fp32: Path, tmp_path: Path, oracle: Oracle, options, found) -> None:
    def plant(model: Surgery) -> None:
        model.model.signatureDefs.append(copy.copy(model.model.signatureDefs[0]))
        model.model.signatureDefs[-1].signatureKey = b"further"

    for model, stage in (
        ("embedder", "embedders"),
        ("mtp_drafter", "drafter"),
        (TARGET_MODEL, "verify against decode"),
    ):
        report = verify(planted(small_fp32, Fault(model, plant, ""), tmp_path / model), oracle, options)
        found[f"a further signature of {model}"] = (stage, report)
        assert report.first_failure == stage, report.summary()
        assert f"{model}'s further was not" in report.summary()


def test_fewer_clusters_are_named(exports: Exports, tmp_path: Path, oracle: Oracle, options, found) -> None:
    shutil.copytree(DRAFTER, tmp_path / "drafter")
    config = json.loads((DRAFTER / "config.json").read_text())
    config["centroid_intermediate_top_k"] //= 2
    (tmp_path / "drafter" / "config.json").write_text(json.dumps(config))
    report = verify(exports("fewer-clusters", drafter=tmp_path / "drafter"), oracle, options)
    found["half as many chosen clusters"] = ("drafter", report)
    assert report.first_failure == "drafter", report.summary()


def test_position_that_advances_is_named(
    small_fp32: Path, oracle: Oracle, options, found, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of the runtime, not of a bundle: every draft step of a round at a position of its own."""
    right = Engine.draft_step
    last: list[int] = [-1, 0]

    def advancing(engine: Engine, token: int, activation: np.ndarray, slot: int) -> tuple[np.ndarray, np.ndarray]:
        last[:] = [slot, last[1] + 1 if slot == last[0] else 0]
        return right(engine, token, activation, slot + last[1])

    monkeypatch.setattr(Engine, "draft_step", advancing)
    report = verify(small_fp32, oracle, options)
    found["the drafter's position advanced by one a step"] = ("drafter", report)
    assert report.first_failure == "drafter", report.summary()
