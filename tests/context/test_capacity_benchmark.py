"""The benchmark of what passes cost, scaled down: every pass of every variant runs, is told, and is drawn."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from tests.benchmarks.capacity import main
from tests.conftest import Exports


def test_benchmark_times_ever_more_slots_in_use(exports: Exports, tmp_path: Path) -> None:
    sizes = ["--shape", "moderate", "--layers", "10", "--window", "64"]
    asked = ["--contexts", "512", "--filled", "100", "--repetitions", "2"]
    (tmp_path / "skeletons").symlink_to(exports.skeletons)  # Graphs that an earlier run has traced.
    files = ["--folder", str(tmp_path), "--plot", str(tmp_path / "cost.svg")]
    done = CliRunner().invoke(main, [*sizes, *asked, *files, "--only", "slots in use"], catch_exceptions=False)
    assert done.exit_code == 0
    told = json.loads(done.output.splitlines()[-1])
    (times,) = told["milliseconds"].values()
    assert times.keys() == {"decode", "verify 4", "draft step"}
    for of in times.values():
        assert of.keys() == {"100", "128", "496"}
        assert all(0 < milliseconds < 10_000 for milliseconds in of.values())
    drawn = (tmp_path / "cost.svg").read_text("utf-8")
    assert drawn.startswith("<?xml")
    assert drawn.count("<path") > len(times) * 3
