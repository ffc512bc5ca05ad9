"""Every planted fault makes `verify` fail, and the report names the stage that the fault is in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from gemma_mtp.export.checkpoint.pair import open_pair
from gemma_mtp.export.parity import open_oracle
from gemma_mtp.runtime.decoding.engine import Engine
from gemma_mtp.runtime.parity.oracle.oracle import Oracle
from gemma_mtp.runtime.parity.report.report import Report
from gemma_mtp.runtime.parity.verify import VerifyOptions, verify
from gemma_mtp.runtime.text.prompts import Prompt
from tests.conftest import DRAFTER, TARGET, BundleOf, Exports, HeldOutPrompt
from tests.support.faults import FAULTS, Fault, planted


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return open_oracle(open_pair(str(TARGET), str(DRAFTER)))


@pytest.fixture(scope="module")
def options(prompts: list[HeldOutPrompt]) -> VerifyOptions:
    return VerifyOptions(tuple(Prompt(text=p.text) for p in prompts[8:10]), max_tokens=16, stock=False, threads=2)


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
def test_sound_bundle_passes(weights: str, bundle_of: BundleOf, oracle: Oracle, options) -> None:
    report = verify(bundle_of(weights), oracle, options)
    assert report.passed, report.summary()
    assert weights == "small_int8" or report.near_ties == 0


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_named(
    name: str, bundle_of: BundleOf, tmp_path: Path, oracle: Oracle, options: VerifyOptions, found
) -> None:
    fault: Fault = FAULTS[name]
    sound = bundle_of(f"small_{fault.weights}")
    report = verify(planted(sound, fault, tmp_path / "faulty"), oracle, options)
    found[name] = (fault.stage, report)
    assert report.first_failure == fault.stage, report.summary()


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
