"""The table of operators against ai-edge-litert's own GPU accelerator."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gemma_mtp.runtime.gpu.check import check_model
from gemma_mtp.runtime.gpu.trial import try_model
from tests.conftest import Exports
from tests.runtime.test_gpu_check import PLANTED, converted

pytestmark = pytest.mark.gpu


REFUSED = [(module, operator) for module, operator, reason in PLANTED if "not tried" not in reason]


@pytest.mark.parametrize(("module", "operator"), REFUSED)
def test_refused_operator_is_refused(module: torch.nn.Module, operator: str) -> None:
    content = converted(module)
    (trial,) = try_model("planted", content)
    assert trial.taken is False
    assert operator in trial.reason or "ended the process" in trial.reason
    (report,) = check_model("planted", content)
    assert operator in [finding.operator for finding in report.findings]


@pytest.mark.parametrize("model", ["prefill_decode", "mtp_drafter"])
def test_our_graphs_are_taken(model: str, exports: Exports) -> None:
    """Without cache operators and norms, which only LiteRT-LM can be asked about."""
    folder: Path = exports("gpu-int8-fp16", weights="int8", activations="fp16")
    trials = try_model(model, (folder / f"{model}.tflite").read_bytes())
    assert [trial.taken for trial in trials] == [True] * len(trials)
    assert all(trial.device and "odml.runtime_bmm" in trial.left_out for trial in trials)
