"""What `make android-tools` fetched, and the bench program built for this machine and for ARM64."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".cache" / "android-tools"
DEMO = ROOT / "android_demo"
# Its kernels are what phones of the last years have: dot products, no int8 matrix products. Newer emulated ones crash.
_EMULATED = ("-cpu", "neoverse-n1")


class MissingToolError(Exception):
    """A part that `make android-tools` could not fetch; the message says which."""


def tool(part: str, *path: str) -> Path:
    """A file of a fetched part.

    Raises:
        MissingToolError: the part is not there.
    """
    if not (TOOLS / f".done-{part}").exists():
        raise MissingToolError(f"no {part} in {TOOLS.relative_to(ROOT)}: `make android-tools` could not fetch it")
    return TOOLS.joinpath(*path)


@dataclass(frozen=True)
class Bench:
    """The bench program with an engine for it; `prefix` runs it, where it is not this machine's."""

    program: Path
    engine: Path
    prefix: tuple[str, ...] = ()

    def __call__(self, bundle: Path, prompts: Path, *options: str) -> subprocess.CompletedProcess[str]:
        command = [*self.prefix, str(self.program), "--engine", str(self.engine)]
        command += ["--bundle", str(bundle), "--prompts", str(prompts), *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)

    def answers(self, bundle: Path, prompts: Path, *options: str) -> list[dict[str, Any]]:
        """The lines of the prompts, of a run that must end well."""
        done = self(bundle, prompts, *options)
        assert done.returncode == 0, done.stderr
        first, *answers, last = map(json.loads, done.stdout.splitlines())
        assert first["backend"] == "cpu"
        assert last["done"]
        assert last["peak_kib"] > 0
        return answers


def build(folder: Path, *settings: str) -> Path:
    """The bench program, built in `folder`."""
    for command in (["cmake", "-S", DEMO / "bench", "-B", folder, *settings], ["cmake", "--build", folder]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "mtp-bench"


def native_bench(folder: Path) -> Bench:
    """For this machine, with the engine of the Python package."""
    import litert_lm

    return Bench(build(folder), Path(litert_lm.__file__).parent / "liblitert-lm.so")


def arm64_bench(folder: Path) -> Bench:
    """For ARM64 Linux, emulated, with that platform's own engine."""
    emulator = tool("emulator", "debian", "usr", "bin", "qemu-aarch64-static")
    compiler = tool("compiler", "aarch64-cc")
    engine = tool("engine-linux", "engines", "aarch64-linux", "liblitert-lm.so")
    system = ("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_C_COMPILER={compiler}")
    return Bench(build(folder, *system), engine, (str(emulator), *_EMULATED, "-L", str(TOOLS / "prefix")))
