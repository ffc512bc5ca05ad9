"""The export benchmark, scaled down: what it says is true of the export that it made."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from gemma_mtp.runtime.bundle.inspection import inspect_bundle
from tests.benchmarks.exporting import main
from tests.conftest import CONTEXT, DRAFTER, PREFILL, TARGET, Exports


def test_benchmark_measures_an_export(small_fp32: Path, exports: Exports, tmp_path: Path) -> None:
    lengths = ["--context-length", str(CONTEXT), "--prefill-lengths", ",".join(map(str, PREFILL))]
    kept = ["--skeleton-cache", str(exports.skeletons), "--num-draft-tokens", "4", "--weights", "fp32"]
    pair = ["--target", str(TARGET), "--drafter", str(DRAFTER)]
    done = CliRunner().invoke(main, [str(tmp_path), *pair, *kept, *lengths], catch_exceptions=False)
    assert done.exit_code == 0
    told = json.loads(done.output.splitlines()[-1])
    (run,) = told["runs"]
    out = tmp_path / "exports" / "0"
    assert inspect_bundle(out / "model.litertlm").problems() == []
    # The same bytes as the export that other tests look at.
    assert (out / "model.litertlm").read_bytes() == (small_fp32 / "model.litertlm").read_bytes()
    assert run["written"] == sum(path.stat().st_size for path in out.iterdir())
    assert run["read"] == sum((folder / "model.safetensors").stat().st_size for folder in (TARGET, DRAFTER))
    assert {"Tracing graphs", "Writing embedder", "Writing prefill_decode", "Hashing the bundle"} <= run[
        "stages"
    ].keys()
    assert run["processor_seconds"] > 1
    # A process with torch in it, and not the whole machine's.
    assert 100e6 < run["peak_memory"] < 4e9
    assert run["peak_disk"] >= 0.9 * run["written"]
