"""The command in a process of its own, marked so that whatever it started can be found."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import CONTEXT, DRAFTER, PREFILL, TARGET

_MARK = "GEMMA_MTP_TEST_MARK"


class Run:
    """A running command; `temporary` is where its temporary files lie."""

    def __init__(self, *arguments: str, temporary: Path, module: str = "gemma_mtp.export.cli") -> None:
        self.mark = secrets.token_hex(8)
        temporary.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, _MARK: self.mark, "TMPDIR": str(temporary), "COLUMNS": "200"},
            start_new_session=True,
        )

    def lines_until(self, count: int) -> list[str]:
        """The first `count` lines of standard error, fewer if it ends before."""
        assert self.process.stderr
        return [line for _ in range(count) if (line := self.process.stderr.readline())]

    def wait_for(self, text: str) -> None:
        assert self.process.stderr
        assert any(text in line for line in self.process.stderr)

    def end(self) -> tuple[int, str]:
        """Exit code and the rest of standard error."""
        _, error = self.process.communicate()
        return self.process.returncode, error

    def running(self, module: str = "") -> list[int]:
        """Processes that this command or its children started, itself included; only those that run `module`."""
        wanted, found = f"{_MARK}={self.mark}".encode(), []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    is_ours = wanted in (entry / "environ").read_bytes().split(b"\0")
                    if is_ours and module.encode() in (entry / "cmdline").read_bytes():
                        found.append(int(entry.name))
                except OSError:
                    continue
        return found

    def wait_for_running(self, count: int, module: str = "") -> None:
        """Wait until `count` processes are there (at most 100 seconds), counted as by `running`."""
        for _ in range(5000):
            if len(self.running(module)) == count:
                return
            time.sleep(0.02)
        raise AssertionError(f"{self.running(module)} are running, expected {count}")


def export_arguments(out: Path, cache: Path, target: Path = TARGET) -> list[str]:
    lengths = ",".join(map(str, PREFILL))
    return [
        *("export", str(target), str(DRAFTER), "-o", str(out), "--skeleton-cache", str(cache)),
        *("--context-length", str(CONTEXT), "--prefill-lengths", lengths),
    ]


def unfinished(*folders: Path) -> list[Path]:
    """All that a run may leave in these folders."""
    names = [entry for folder in folders if folder.exists() for entry in folder.iterdir()]
    return [path for path in names if "unfinished" in path.name or path.name.startswith(("gemma-mtp-", ".part-"))]
