"""Bundles of strangers, damaged: what is read of them in this process, and what LiteRT makes of them in another."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gemma_mtp.runtime.bundle.container import BundleFile
from gemma_mtp.runtime.bundle.inspection import inspect_bundle
from gemma_mtp.runtime.bundle.loading import open_bundle
from tests.fuzz.conftest import Seeds, refusal
from tests.fuzz.mutations import mutate_bytes

HEADER_BYTES = 1024
# A model's tables lie before its weights.
TABLE_BYTES = 1 << 20


def damaged(content: bytes, sections: list[tuple[str, int, int]], seed: int) -> bytes:
    """`content` with damage in the header, or in one of its `sections`: name, begin and end.

    Bytes are not moved beyond a section, or every seed would test the same: that later ones cannot be found.
    """
    chance = random.Random(seed)
    kind, begin, end = chance.choice([("header", 0, HEADER_BYTES), *sections])
    if kind == "file":
        return mutate_bytes(content, chance)
    part = mutate_bytes(content[begin:end], chance, 0, TABLE_BYTES if kind == "model" else None)
    return content[:begin] + part[: end - begin].ljust(end - begin, b"\0") + content[end:]


def places(bundle: Path) -> list[tuple[str, int, int]]:
    sections = BundleFile(bundle).sections
    found = [("model" if section.model_type else "other", section.begin, section.end) for section in sections]
    return [*found, ("file", 0, 0)]


def test_bundles_are_read_or_refused(seeds: Seeds, small_int8: Path, tmp_path: Path) -> None:
    original, file = small_int8 / "model.litertlm", tmp_path / "damaged.litertlm"
    content, sections = original.read_bytes(), places(original)
    refused = 0
    for seed in seeds(20):
        file.write_bytes(damaged(content, sections, seed))
        refused += refusal(lambda: _read(file), seed) is not None
    assert refused


def _read(file: Path) -> None:
    inspection = inspect_bundle(file)
    inspection.as_dict()
    inspection.stop_texts()
    open_bundle(file)


@pytest.mark.timeout(7200)
def test_litert_runs_or_refuses_what_is_read(seeds: Seeds, small_int8: Path, tmp_path: Path) -> None:
    """In a child process, as native code that crashes takes its process along; that is a finding, too."""
    original = small_int8 / "model.litertlm"
    content, sections = original.read_bytes(), [place for place in places(original) if place[0] == "model"]
    file, outcomes = tmp_path / "damaged.litertlm", dict[str, list[int]]()
    for seed in seeds(6):
        chance = random.Random(seed)
        _, begin, end = chance.choice(sections)
        part = mutate_bytes(content[begin:end], chance, 0, TABLE_BYTES)[: end - begin].ljust(end - begin, b"\0")
        file.write_bytes(content[:begin] + part + content[end:])
        arguments = ["generate", str(file), "--prompt", "def", "--max-tokens", "4", "--threads", "1", "--quiet"]
        done = subprocess.run(
            [sys.executable, "-m", "gemma_mtp.export.cli", *arguments],
            capture_output=True, text=True, errors="replace", timeout=120, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, f"seed {seed}: {done.stderr[-2000:]}"
        if done.returncode == 2:
            assert re.search(r"^Error: \S", done.stderr, re.MULTILINE), f"seed {seed}: {done.stderr[-500:]}"
        outcomes.setdefault(_outcome(done.returncode), []).append(seed)
    print({outcome: len(found) for outcome, found in outcomes.items()}, "crashes at", outcomes.get("crashed"))
    # Native code crashes on some; see docs/trust.md. More than a few would say that the checks before it are gone.
    assert len(outcomes.get("crashed", ())) <= sum(map(len, outcomes.values())) // 5


def _outcome(code: int) -> str:
    return {0: "ran", 2: "refused"}.get(code, "crashed")
