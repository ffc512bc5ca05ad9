"""Real exports that are ended in each stage: nothing runs on, nothing half-made is taken, the next run is clean.

INTERRUPTIONS=20 goes through the stages several times, each with every signal.
"""

from __future__ import annotations

import itertools
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gemma_mtp.runtime.bundle.inspection import inspect_bundle
from gemma_mtp.runtime.errors import UserError
from tests.conftest import Exports
from tests.interruption.running import Run, export_arguments, unfinished

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
# Stages of an export whose graphs are in the cache, as it says that each begins.
STAGES = (
    *("Hashing the checkpoints", "Writing embedder", "Writing prefill_decode", "Writing mtp_drafter"),
    *("Hashing the bundle", "Copying embedder"),
)
MOMENTS = int(os.environ.get("INTERRUPTIONS", len(STAGES)))
TRACING = "gemma_mtp.export.graphs.tracing.work"
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGHUP)


def moments() -> list[tuple[str, int]]:
    """Stages in which to send which signal."""
    return list(itertools.islice(zip(itertools.cycle(STAGES), itertools.cycle(SIGNALS)), MOMENTS))


def end_at(run: Run, number: int) -> None:
    """Send the signal; then nothing of the run may be left running, and a signal that can be answered is."""
    run.process.send_signal(number)
    code, error = run.end()
    run.wait_for_running(0)
    if number != signal.SIGKILL and code != 0:  # It may have been done already.
        assert code == 2
        assert [line for line in error.splitlines() if line.startswith("Error: ")] == [
            "Error: interrupted; nothing was written"
        ]


def assert_nothing_half_made(out: Path, tmp: Path, *, killed: bool) -> None:
    left = unfinished(out.parent, tmp)
    assert killed or left == []
    for bundle in [*out.parent.rglob("*.litertlm")]:
        try:
            assert inspect_bundle(bundle).problems() == []
        except UserError:
            assert bundle.parent != out
    if out.exists():
        assert {path.name for path in out.iterdir()} >= {"model.litertlm", "manifest.json"}


def test_exports_ended_while_they_write(small_fp32: Path, exports: Exports, tmp_path: Path) -> None:
    """Each run finds what the one before it left."""
    folder, tmp = tmp_path / "runs", tmp_path / "tmp"
    folder.mkdir()
    out, arguments = folder / "out", [*export_arguments(folder / "out", exports.skeletons), "--tflite-files"]
    for stage, number in moments():
        shutil.rmtree(out, ignore_errors=True)
        run = Run(*arguments, temporary=tmp)
        run.wait_for(f"{stage} ...")
        end_at(run, number)
        assert_nothing_half_made(out, tmp, killed=number == signal.SIGKILL)
    shutil.rmtree(out, ignore_errors=True)
    code, error = Run(*arguments, temporary=tmp).end()
    assert (code, unfinished(folder, tmp, exports.skeletons)) == (0, []), error
    assert [path.name for path in folder.iterdir()] == ["out"]


@pytest.mark.export
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_export_ended_while_it_traces(number: int, tmp_path: Path) -> None:
    tmp, out = tmp_path / "tmp", tmp_path / "out"
    run = Run(*export_arguments(out, tmp_path / "cache"), temporary=tmp)
    run.wait_for("Tracing graphs")
    run.wait_for_running(min(2, os.cpu_count() or 1), TRACING)
    end_at(run, number)
    assert not out.exists()
    left = unfinished(tmp_path, tmp, tmp_path / "cache")
    assert bool(left) == (number == signal.SIGKILL)
    again = Run(*export_arguments(out, tmp_path / "cache"), temporary=tmp)
    told = again.lines_until(14)
    end_at(again, signal.SIGTERM)
    assert sum(line.startswith("Removed ") for line in told) == len(left)
    assert unfinished(tmp_path, tmp, tmp_path / "cache") == []


@pytest.mark.export
@pytest.mark.parametrize("place", [0, 1])
def test_killed_tracing_process_is_said(place: int, tmp_path: Path) -> None:
    """The one that loads the converter, and the one that is forked from it."""
    run = Run(*export_arguments(tmp_path / "out", tmp_path / "cache"), temporary=tmp_path / "tmp")
    count = min(2, os.cpu_count() or 1)
    run.wait_for_running(count, TRACING)
    os.kill(sorted(run.running(TRACING))[place % count], signal.SIGKILL)
    code, error = run.end()
    run.wait_for_running(0)
    assert code == 2
    assert "Error: a tracing process was killed, most often for lack of memory" in error
    assert not (tmp_path / "out").exists()
    assert unfinished(tmp_path, tmp_path / "tmp") == []


def test_two_exports_into_one_folder(small_fp32: Path, exports: Exports, tmp_path: Path) -> None:
    """One is made, whole; the other finishes before or after it, or is told."""
    arguments = export_arguments(tmp_path / "out", exports.skeletons)
    runs = [Run(*arguments, temporary=tmp_path / f"tmp{index}") for index in range(2)]
    codes, errors = zip(*(run.end() for run in runs), strict=True)
    assert sorted(codes) == [0, 2], errors
    told = errors[codes.index(2)].splitlines()[-1]
    assert "another export is writing it" in told or "something was put there" in told or "is not empty" in told
    assert inspect_bundle(tmp_path / "out" / "model.litertlm").problems() == []
    assert unfinished(tmp_path, tmp_path / "tmp0", tmp_path / "tmp1") == []


@pytest.mark.parametrize(
    ("limit", "stage"),
    [(10_000, "writing the bundle"), (1_000_000, "writing per_layer_embedder"), (10_000_000, "writing prefill_decode")],
)
def test_full_disk_is_one_line(limit: int, stage: str, small_fp32: Path, exports: Exports, tmp_path: Path) -> None:
    """A limit on file sizes, as the kernel sets it, fails a write half way as a full disk does."""
    arguments = export_arguments(tmp_path / "out", exports.skeletons)
    done = subprocess.run(
        [sys.executable, "-m", "gemma_mtp.export.cli", *arguments, "--weights", "fp32"],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert f"File too large while {stage}" in line
    assert str(tmp_path) in line
    assert list(tmp_path.iterdir()) == []


def test_full_disk_as_the_kernel_says_it(small_fp32: Path, exports: Exports, tmp_path: Path) -> None:
    mounted = tmp_path / "small"
    mounted.mkdir()
    mount = shutil.which("mount")
    size = "size=12m"
    command = [mount or "mount", "-t", "tmpfs", "-o", size, "tmpfs", str(mounted)]
    if mount is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        (mounted / "filler").write_bytes(b"")
        run = Run(
            *export_arguments(mounted / "out", exports.skeletons), "--weights", "fp32", temporary=tmp_path / "tmp"
        )
        code, error = run.end()
        assert code == 2
        assert "free some space" in error.splitlines()[-1]
        assert [path.name for path in mounted.iterdir()] == ["filler"]
    finally:
        subprocess.run(["umount", str(mounted)], check=True)
