"""README's examples run as written, on a bundle where README has it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)


def test_readme_has_both_examples() -> None:
    assert [("litert_lm.Engine(" in code, "gemma_mtp" in code) for code in EXAMPLES] == [(True, False), (False, True)]


@pytest.mark.parametrize("code", EXAMPLES, ids=["LiteRT-LM", "Python runtime"])
def test_example_runs_as_written(code: str, small_int8: Path, tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(small_int8)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip()
