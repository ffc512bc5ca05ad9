"""Traced graphs that are kept: a damaged one is noticed and never used; several processes may keep at a time."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ai_edge_litert import schema_py_generated as schema

from gemma_mtp.export.checkpoint.pair import open_pair
from gemma_mtp.export.graphs.signatures import Signature, embedder_signature
from gemma_mtp.export.graphs.tracing.convert import convert
from gemma_mtp.export.graphs.tracing.skeleton_cache import SkeletonCache
from gemma_mtp.runtime.bundle.flatbuffer import pack
from tests.conftest import DRAFTER, TARGET

FLIPS = 200


def graph(name: str, size: int = 500) -> bytes:
    """The smallest model with one signature; `size` bytes of weights."""
    model: Any = schema.ModelT()
    entry: Any = schema.SignatureDefT()
    buffer: Any = schema.BufferT()
    entry.signatureKey, buffer.data = name.encode(), [7] * size
    model.signatureDefs, model.buffers = [entry], [buffer]
    return pack(model)


@pytest.fixture(scope="module")
def signature() -> Signature:
    return embedder_signature(open_pair(str(TARGET), str(DRAFTER)).target_config)


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, notes: list[str], signature: Signature) -> SkeletonCache:
    cache = SkeletonCache(tmp_path / "cache", notes.append)
    cache.put({"embedder": graph("embedder")}, [signature])
    return cache


def test_entry_comes_back(cache: SkeletonCache, signature: Signature, notes: list[str]) -> None:
    assert cache.get(signature) == graph("embedder")
    assert notes == []
    assert list(cache.folder.iterdir()) == [cache.path(signature)]


def test_every_flipped_bit_is_noticed(cache: SkeletonCache, signature: Signature, notes: list[str]) -> None:
    path, chosen = cache.path(signature), random.Random(0)
    whole = path.read_bytes()
    for _ in range(FLIPS):
        place = chosen.randrange(len(whole))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << chosen.randrange(8)]) + whole[place + 1 :])
        # The line feed behind the hash is nobody's data.
        assert cache.get(signature) == (graph("embedder") if place == 64 else None)
    assert len(notes) >= FLIPS - 5
    assert notes[0] == f"{path}: is damaged (another SHA-256 than its own); tracing embedder again"


@pytest.mark.parametrize("kept", [0, 1, 64, 65, 100, -1])
def test_truncated_entry_is_noticed(kept: int, cache: SkeletonCache, signature: Signature, notes: list[str]) -> None:
    path = cache.path(signature)
    path.write_bytes(path.read_bytes()[:kept])
    assert cache.get(signature) is None
    assert len(notes) == 1


@pytest.mark.parametrize("content", [b"", b"TFL3" * 9, graph("decode")], ids=["nothing", "no table", "another"])
def test_whole_entry_of_something_else_is_noticed(
    content: bytes, cache: SkeletonCache, signature: Signature, notes: list[str]
) -> None:
    cache.put({"embedder": content}, [signature])
    assert cache.get(signature) is None
    assert notes == [f"{cache.path(signature)}: holds no graph of embedder; tracing it again"]


def test_entry_that_cannot_be_read_or_kept_ends_nothing(
    cache: SkeletonCache, signature: Signature, notes: list[str]
) -> None:
    path = cache.path(signature)
    path.unlink()
    path.mkdir()
    assert cache.get(signature) is None
    cache.put({"embedder": graph("embedder")}, [signature])
    assert notes == [
        f"{path}: cannot be read (Is a directory); tracing embedder again",
        f"--skeleton-cache: {cache.folder} cannot be written (Is a directory); graphs are not kept",
    ]


PUT = """
import sys
from pathlib import Path
from gemma_mtp.export.graphs.tracing.skeleton_cache import SkeletonCache
from tests.interruption.test_skeleton_cache import DRAFTER, TARGET, embedder_signature, graph, open_pair
signature = embedder_signature(open_pair(str(TARGET), str(DRAFTER)).target_config)
notes = []
cache = SkeletonCache(Path(sys.argv[1]), notes.append)
for _ in range(20):
    cache.put({"embedder": graph("embedder", 500)}, [signature])
    assert cache.get(signature) == graph("embedder", 500)
assert not notes, notes
"""


def test_two_processes_keep_the_same_entry_at_a_time(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PUT, str(tmp_path / "cache")]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.slow
def test_damaged_entry_is_traced_again(cache: SkeletonCache, signature: Signature, notes: list[str]) -> None:
    path = cache.path(signature)
    path.write_bytes(path.read_bytes()[:-1])
    traced = convert([signature], cache=cache)["embedder"]
    assert len(notes) == 1
    assert cache.get(signature) == traced != graph("embedder")
