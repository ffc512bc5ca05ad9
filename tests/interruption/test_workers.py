"""Workers do not outlive the process that started them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gemma_mtp.runtime.workers import run_worker
from tests.interruption.running import Run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
MODULE = "tests.interruption.sleeper"


@pytest.mark.parametrize("how", ["by-its-pipe", "holding-the-lock", "forked"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_worker_ends_with_its_parent(how: str, number: int, tmp_path: Path) -> None:
    run = Run(f"parent-of-{how}", temporary=tmp_path / "tmp", module=MODULE)
    assert run.process.stdout
    assert run.process.stdout.readline() == f"{how} sleeps\n"
    assert len(run.running()) == (3 if how == "forked" else 2)
    run.process.send_signal(number)
    run.end()
    run.wait_for_running(0)


def test_worker_that_takes_too_long_is_ended() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        run_worker(MODULE, "sleeper", timeout=1.0)


def test_worker_s_exit_code_and_output_come_back() -> None:
    code, output = run_worker("json.tool", "/no/such/file")
    assert code == 2
    assert "/no/such/file" in output
