"""What can be known before the work begins: places that can be written, apart from each other, with enough room."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from ..runtime.errors import UserError
from .checkpoint.adapted import AdaptedCheckpoint
from .checkpoint.pair import Pair
from .graphs.plan import ModelPlan
from .graphs.skeleton_cache import SkeletonCache
from .graphs.storage import Stored, stored_bytes
from .staging import check_output_folder

# Graphs, scales, metadata: a few megabytes for each signature of E2B.
_SIGNATURE_BYTES = 4 << 20
# Weights are written to a model's own file, and once more into the bundle.
_COPIES = 2


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


def check_space(out: Path, models: Mapping[str, ModelPlan], stored: Stored, tokenizer: Path) -> None:
    """Raises:
    UserError: the disk of `out` has less free space than an export of `models` takes.
    """
    needed = bytes_needed(models, stored) + tokenizer.stat().st_size
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise UserError(
            f"{out}: an export takes {needed / 1e9:,.2f} GB there while it runs, and {free / 1e9:,.2f} GB are free;"
            " free some space, or choose another disk"
        )


def bytes_needed(models: Mapping[str, ModelPlan], stored: Stored) -> int:
    """Bytes on disk that an export of `models` takes while it runs, from above, without the tokenizer."""
    weights = sum(
        stored_bytes(stored[name], weight) for name, model in models.items() for weight in model.weights.values()
    )
    return _COPIES * (weights + _SIGNATURE_BYTES * sum(len(model.signatures) for model in models.values()))
