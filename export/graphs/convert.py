"""Signatures to skeleton flatbuffers, traced by worker processes side by side."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

from .signatures import Signature

_TRACING_PACKAGES = ("torch", "litert-torch", "litert-converter")
_WORKER_GIGABYTES = 2
_ROOT = Path(__file__).parents[2]
# The files of this package that a trace runs through; a test compares them with what a worker imports.
TRACED_SOURCES = (
    "export/checkpoint/config.py",
    "export/checkpoint/weights.py",
    "export/graphs/signatures.py",
    "export/graphs/trace.py",
    "export/models/cache_ops.py",
    "export/models/clustered_head.py",
    "export/models/drafter.py",
    "export/models/embedders.py",
    "export/models/kv_cache.py",
    "export/models/layers.py",
    "export/models/target.py",
    "export/models/windowed.py",
    "runtime/bundle/names.py",
)


class ConversionError(RuntimeError):
    """The converter failed; the message ends with the last lines of its output."""


def convert(
    signatures: list[Signature],
    *,
    cache: Path | None = None,
    workers: int | None = None,
    on_progress: Callable[[str], None] = lambda name: None,
    show_output: bool = False,
) -> dict[str, bytes]:
    """Flatbuffer of each signature by name, with its weights as inputs.

    Args:
        signatures: with distinct names.
        cache: folder of earlier results to take from and add to; they depend on configurations, not on weights.
        workers: processes at a time; by default one per core, at most one per two gigabytes of memory.
        on_progress: called with the name of each signature as it is done.
        show_output: let the converter write to standard error instead of to a file.

    Raises:
        ConversionError: a worker failed.
    """
    done: dict[str, bytes] = {}
    missing: list[Signature] = []
    for signature in signatures:
        kept = cache / f"{_key(signature)}.tflite" if cache else None
        if kept and kept.exists():
            done[signature.name] = kept.read_bytes()
            on_progress(signature.name)
        else:
            missing.append(signature)
    if missing:
        with tempfile.TemporaryDirectory(prefix="gemma-mtp-trace-") as folder:
            traced = _run_workers(missing, Path(folder), workers or _default_workers(), on_progress, show_output)
        done.update(traced)
        if cache:
            _keep(cache, {_key(signature): traced[signature.name] for signature in missing})
    return done


def _default_workers() -> int:
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):
        memory = 8 << 30
    return max(1, min(os.cpu_count() or 1, memory // (_WORKER_GIGABYTES << 30)))


def _key(signature: Signature) -> str:
    """Hash of everything that a traced signature depends on, this package's code included."""
    digest = hashlib.sha256(pickle.dumps(signature, protocol=5))
    for package in _TRACING_PACKAGES:
        digest.update(f"{package}=={version(package)}".encode())
    for source in TRACED_SOURCES:
        digest.update((_ROOT / source).read_bytes())
    return f"{signature.name}-{digest.hexdigest()[:24]}"


def _keep(cache: Path, traced: dict[str, bytes]) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    for key, content in traced.items():
        part = cache / f"{key}.{os.getpid()}.part"
        part.write_bytes(content)
        os.replace(part, cache / f"{key}.tflite")


def _shares(signatures: list[Signature], workers: int) -> list[list[Signature]]:
    """Split so that the costliest signatures (those with most weights) spread evenly over the workers."""
    shares: list[list[Signature]] = [[] for _ in range(min(workers, len(signatures)))]
    for signature in sorted(signatures, key=lambda signature: -len(signature.weights)):
        min(shares, key=lambda share: sum(len(member.weights) for member in share)).append(signature)
    return shares


def _run_workers(
    signatures: list[Signature], folder: Path, workers: int, on_progress: Callable[[str], None], show_output: bool
) -> dict[str, bytes]:
    waiting = {signature.name for signature in signatures}
    with _started(_shares(signatures, workers), folder, show_output) as processes:
        while waiting:
            exited = all(process.poll() == 0 for process in processes)
            for name in sorted(waiting):
                if (folder / f"{name}.tflite").exists():
                    waiting.discard(name)
                    on_progress(name)
            for index, process in enumerate(processes):
                if process.poll() not in (None, 0):
                    log = "" if show_output else (folder / f"{index}.log").read_text(errors="replace")
                    tail = "\n".join(log.splitlines()[-15:])
                    raise ConversionError(f"litert-torch failed (exit code {process.returncode})\n{tail}")
            if exited and waiting:
                raise ConversionError(f"litert-torch wrote nothing for {', '.join(sorted(waiting))}")
            time.sleep(0.05)
    return {signature.name: (folder / f"{signature.name}.tflite").read_bytes() for signature in signatures}


@contextlib.contextmanager
def _started(shares: list[list[Signature]], folder: Path, show_output: bool) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Worker processes, one per share; all are ended when the block is left, however it is left."""
    # One thread each: tracing does no arithmetic, and idle thread pools get in each other's way.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LITERT_TORCH_SHOW_PROGRESS": "n"}
    processes: list[subprocess.Popen[bytes]] = []
    with contextlib.ExitStack() as logs:
        try:
            for index, share in enumerate(shares):
                task = folder / f"{index}.pickle"
                task.write_bytes(pickle.dumps(share, protocol=5))
                log = None if show_output else logs.enter_context((folder / f"{index}.log").open("wb"))
                command = [sys.executable, "-m", "gemma_mtp.export.graphs.trace", str(task), str(folder)]
                processes.append(subprocess.Popen(command, stdout=log or sys.stderr, stderr=log, env=environment))
            yield processes
        finally:
            for process in processes:
                process.kill()
            for process in processes:
                process.wait()
