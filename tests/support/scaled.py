"""Copies of a checkpoint with one weight scaled."""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file


def scale_weight(checkpoint: Path, ending: str, factor: float, out: Path) -> Path:
    """Copy the folder `checkpoint` to `out` with the one tensor whose name has this `ending` multiplied by `factor`."""
    shutil.copytree(checkpoint, out)
    (path,) = out.glob("*.safetensors")
    tensors = load_file(path)
    (name,) = (name for name in tensors if name.endswith(ending))
    tensors[name] = tensors[name] * factor
    save_file(tensors, path, metadata={"format": "pt"})
    return out
