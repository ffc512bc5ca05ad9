"""The table of operators against ai-edge-litert's own GPU accelerator."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gemma_mtp.runtime.gpu.check import check_model
from gemma_mtp.runtime.gpu.trial import try_model
from tests.conftest import Exports
from tests.runtime.test_gpu_check import PLANTED, RowByRow, converted

pytestmark = pytest.mark.gpu


# In a process of its own, which finds the device by its environment.
_RUN_ON_GPU = """
import sys
import numpy as np
from ai_edge_litert.compiled_model import CompiledModel, HardwareAccelerator, Options

model = CompiledModel.from_file(sys.argv[1], options=Options(hardware_accelerators=HardwareAccelerator.GPU))
assert model.is_fully_accelerated()
inputs, outputs = model.create_input_buffers(0), model.create_output_buffers(0)
inputs[0].write(np.load(sys.argv[2]))
model.run_by_index(0, inputs, outputs)
np.save(sys.argv[3], outputs[0].read(32, np.float32).reshape(8, 4))
"""


REFUSED = [(module, operator) for module, operator, reason in PLANTED if "not tried" not in reason]


@pytest.mark.parametrize(("module", "operator"), REFUSED)
def test_refused_operator_is_refused(module: torch.nn.Module, operator: str) -> None:
    content = converted(module)
    (trial,) = try_model("planted", content)
    assert trial.taken is False
    assert operator in trial.reason or "ended the process" in trial.reason
    (report,) = check_model("planted", content)
    assert operator in [finding.operator for finding in report.findings]


@pytest.mark.parametrize(("shape", "right"), [((8, 4), False), ((1, 1, 8, 4), True)])
def test_rows_of_a_constant_are_read_where_it_has_four_axes(shape: tuple[int, ...], right: bool, tmp_path) -> None:
    rows = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    model, before, after = (tmp_path / name for name in ("model.tflite", "before.npy", "after.npy"))
    model.write_bytes(converted(RowByRow(), (torch.zeros(shape),)))
    np.save(before, rows)
    subprocess.run([sys.executable, "-c", _RUN_ON_GPU, str(model), str(before), str(after)], check=True)
    factors = np.load(after) / rows.reshape(8, 4)
    np.testing.assert_allclose(factors, factors[:, :1].repeat(4, axis=1), rtol=1e-3)
    np.testing.assert_allclose(factors[:, 0], np.arange(1, 9) if right else np.ones(8), rtol=1e-3)


@pytest.mark.parametrize("model", ["prefill_decode", "mtp_drafter"])
def test_our_graphs_are_taken(model: str, exports: Exports) -> None:
    """Without cache operators and norms, which only LiteRT-LM can be asked about."""
    folder: Path = exports("gpu-int8-fp16", weights="int8", activations="fp16")
    trials = try_model(model, (folder / f"{model}.tflite").read_bytes())
    assert [trial.taken for trial in trials] == [True] * len(trials)
    assert all(trial.device and "odml.runtime_bmm" in trial.left_out for trial in trials)
