"""An export whose processes may take no more memory says so in a line, wherever it runs out."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interruption.running import export_arguments, unfinished

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits address space")


@pytest.mark.parametrize("megabytes", [700, 1000])
def test_too_little_address_space_is_said(megabytes: int, tmp_path: Path) -> None:
    """The first does not suffice for torch, the second not for the converter in a tracing process."""
    out, tmp = tmp_path / "outputs" / "out", tmp_path / "tmp"
    out.parent.mkdir()
    tmp.mkdir()
    ran = subprocess.run(
        [sys.executable, "-m", "gemma_mtp.export.cli", *export_arguments(out, tmp_path / "skeletons")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20,) * 2),
        env={"TMPDIR": str(tmp), "HOME": str(tmp_path), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2, ran.stderr
    assert [line for line in ran.stderr.splitlines() if "rror: " in line and "out of memory" in line]
    assert unfinished(out.parent, tmp) == []
    assert not out.exists()
