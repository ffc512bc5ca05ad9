"""A pair of E2B's widths, head sizes, vocabulary and clustered head on the GPU backend. `make test-gpu-slow`.

It is the shipped pair widened, with ten layers: unlike random weights, it answers with varied text.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from gemma_mtp.runtime.bundle.inspection import inspect_bundle
from gemma_mtp.runtime.gpu.report import gpu_report
from tests.benchmarks.widen import widen
from tests.benchmarks.widths import Widths
from tests.conftest import DRAFTER, TARGET, Exports
from tests.gpu.conftest import run_patiently

pytestmark = [pytest.mark.gpu_slow, pytest.mark.timeout(3600)]
PROMPT, TOKENS = "def is_package(self, fullname):\n    filename =", 12


@pytest.fixture(scope="module")
def bundle(exports: Exports, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide") / "pair"
    widen(TARGET, DRAFTER, Widths(layers=10, kv_shared_layers=5), folder)
    wide = exports("real-widths", folder / "target", folder / "drafter", weights="int8", context=128, prefill=(8,))
    return wide / "model.litertlm"


def test_loads_whole_and_gives_the_cpus_text_with_and_without_mtp(bundle: Path, device: str, capsys) -> None:
    """In the activations that LiteRT-LM chooses on a GPU."""
    runs = {
        (backend, mtp): run_patiently(bundle, [PROMPT], speculative=mtp, backend=backend, max_tokens=TOKENS)
        for backend in ("cpu", "gpu")
        for mtp in (False, True)
    }
    with capsys.disabled():
        for (backend, mtp), made in runs.items():
            print(f"\n{backend}, MTP {'on' if mtp else 'off'}: {made.texts[0]!r}, {made.seconds[0]:.1f} s", end="")
    off, on = runs["gpu", False], runs["gpu", True]
    assert on.texts[0].startswith(off.texts[0])
    assert off.texts == runs["cpu", False].texts
    assert len(off.texts[0].strip()) > TOKENS
    assert on.acceptance_rate > 0


def test_check_and_trial_loads_take_every_graph(bundle: Path, device: str) -> None:
    report = gpu_report(inspect_bundle(bundle).bundle)
    assert report.taken
    assert [trial.taken for trial in report.trials] == [True] * len(report.graphs)
