"""What can be known before the work begins: places that can be written, apart from each other, with enough room."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from ..runtime.errors import UserError
from .checkpoint.adapted import AdaptedCheckpoint
from .checkpoint.pair import Pair
from .graphs.plan import ModelPlan
from .graphs.storage import Stored, stored_bytes, weight_bytes
from .graphs.tracing.skeleton_cache import SkeletonCache
from .staging import check_output_folder

# Graphs, scales, metadata: a few megabytes for each signature of E2B.
_SIGNATURE_BYTES = 4 << 20
# One tracing process beside this one, torch in both.
_LEAST_MEMORY = 1_500_000_000
# As a container sees its own group: limit, statistics, and what in them counts the processes' own memory.
_GROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.stat", "anon"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.stat", "total_rss"),
)


def check_places(pair: Pair, out: Path, cache: SkeletonCache | None) -> None:
    """Check where an export shall write; nothing is written or made.

    Raises:
        UserError: `out` or the cache's folder cannot be written, or would change what is read or written there.
    """
    check_output_folder(out)
    place = out.resolve()
    folders = [pair.target.folder, pair.drafter.folder]
    if isinstance(pair.target, AdaptedCheckpoint):
        folders += [adapter.folder for adapter in pair.target.adapters]
    for folder in folders:
        if place.is_relative_to(folder.resolve()):
            raise UserError(f"{out}: lies inside the checkpoint's folder {folder}; choose a folder outside")
    if cache:
        if cache.folder.resolve().is_relative_to(place):
            raise UserError(f"--skeleton-cache: {cache.folder} lies inside the output {out}; choose a folder outside")
        cache.check()


def check_space(
    out: Path, models: Mapping[str, ModelPlan], stored: Stored, tokenizer: Path, *, tflite_files: bool = False
) -> None:
    """Raises:
    UserError: the disk of `out` has less free space than an export of `models` takes.
    """
    needed = bytes_needed(models, stored) + tokenizer.stat().st_size
    if tflite_files:  # Each with all of its weights.
        needed += _graph_bytes(models) + sum(
            stored_bytes(stored[name], weight) for name, model in models.items() for weight in model.weights.values()
        )
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise UserError(
            f"{out}: an export takes {needed / 1e9:,.2f} GB there while it runs, and {free / 1e9:,.2f} GB are free;"
            " free some space, or choose another disk"
        )


def bytes_needed(models: Mapping[str, ModelPlan], stored: Stored) -> int:
    """Bytes on disk that the models' sections of a bundle take, from above, without the tokenizer."""
    return _graph_bytes(models) + sum(count for _, _, count in weight_bytes(models, stored))


def _graph_bytes(models: Mapping[str, ModelPlan]) -> int:
    return _SIGNATURE_BYTES * sum(len(model.signatures) for model in models.values())


def check_memory() -> None:
    """Raises:
    UserError: less memory is available than an export takes at the least.
    """
    available = available_memory()
    if available is not None and available < _LEAST_MEMORY:
        raise UserError(
            f"an export takes {_LEAST_MEMORY / 1e9:.1f} GB of memory, and {available / 1e9:.1f} GB are available; close"
            " other programs, or give the container more"
        )


def available_memory() -> int | None:
    """Bytes that the system, and the control group that this process is in, would still give; None if nobody says."""
    found = [_meminfo("MemAvailable"), *map(_group_memory, _GROUP_FILES)]
    return min((count for count in found if count is not None), default=None)


def _meminfo(key: str) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name == key:
                return int(rest.split()[0]) << 10
    return None


def _group_memory(files: tuple[str, str, str]) -> int | None:
    """Limit of a control group less what its processes hold; pages of files are given back when they are needed."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        limit, stat, held = files
        rows = (line.split() for line in Path(stat).read_text().splitlines())
        return int(Path(limit).read_text()) - next(int(row[1]) for row in rows if row[0] == held)
    return None
