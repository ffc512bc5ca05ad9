"""LiteRT-LM's engine for Android, from the Python package's wheel for that platform."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

from ..errors import UserError
from ..scratch import scratch_folder

LIBRARY = "liblitert-lm.so"
_PACKAGE = "litert-lm-api"
# Android 6 (API 23), in the tags of its wheels.
_PLATFORM = "android_23"


def android_engine(abi: str) -> Path:
    """The engine's library for an ABI, of the version that is installed here; fetched by pip once, and kept.

    Raises:
        UserError: pip cannot fetch it.
    """
    wanted = version(_PACKAGE)
    kept = _cache() / wanted / abi / LIBRARY
    if kept.is_file():
        return kept
    platform = f"{_PLATFORM}_{abi.replace('-', '_')}"
    with scratch_folder("engine") as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--platform", platform, "--dest", str(folder), f"{_PACKAGE}=={wanted}"]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        wheels = sorted(folder.glob("*.whl"))
        if done.returncode or not wheels:
            said = done.stderr.strip().splitlines()
            raise UserError(
                f"pip cannot fetch {_PACKAGE} {wanted} for {platform}: {said[-1] if said else 'it does not say why'};"
                f" give its {LIBRARY} by --engine"
            )
        kept.parent.mkdir(parents=True, exist_ok=True)
        unfinished = kept.with_name(f"{LIBRARY}.{os.getpid()}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            unfinished.write_bytes(wheel.read(f"litert_lm/{LIBRARY}"))
        unfinished.replace(kept)
    return kept


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "gemma-mtp-export" / "engines"
