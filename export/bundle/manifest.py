"""`manifest.json`: what went into an export, what was chosen and what came out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...quantize.formats import Storage
from ...runtime.bundle.model_file import ModelInfo
from ...runtime.bundle.names import EMBEDDER, PREFILL_DECODE
from ..checkpoint.adapted import AdaptedCheckpoint
from ..checkpoint.files import Checkpoint
from ..checkpoint.pair import Pair
from ..graphs.plan import ModelPlan
from ..graphs.storage import Stored, shares_table
from ..models.kv_cache import KVSignature
from ..options import ExportOptions

_MANIFEST_VERSION = 1
_RECORDED_PACKAGES = (
    "gemma-mtp-export",
    "torch",
    "litert-torch",
    "litert-converter",
    "ai-edge-litert",
    "ai-edge-quantizer",
    "litert-lm-builder",
    "litert-lm",
)


@dataclass(frozen=True)
class WrittenFile:
    """Size in bytes and SHA-256 of a file of an export."""

    bytes: int
    sha256: str


def make_manifest(
    pair: Pair,
    options: ExportOptions,
    kv: KVSignature,
    models: Mapping[str, ModelPlan],
    stored: Stored,
    infos: Mapping[str, ModelInfo],
    files: Mapping[str, WrittenFile],
) -> dict[str, Any]:
    """What went in, what was chosen and what came out; nothing that differs between two runs on the same input."""
    shared = shares_table(models, stored)
    return {
        "manifest_version": _MANIFEST_VERSION,
        "sources": manifest_sources(pair),
        "options": asdict(options) | {"recipe": options.recipe.as_dict()},
        "packages": {package: version(package) for package in _RECORDED_PACKAGES},
        "kv_signature": {
            "length": kv.length,
            "format": kv.format,
            "target": {name: list(shape) for name, shape in kv.target_shapes().items()},
            "drafter": {name: list(shape) for name, shape in kv.drafter_shapes().items()},
        },
        "models": {
            name: {
                "signatures": _signatures_of(infos[name]),
                "weights": {
                    weight.name: {"shape": list(weight.shape)}
                    | _stored_as(stored[name][weight.name])
                    | ({"bytes_of": PREFILL_DECODE} if name == EMBEDDER and shared else {})
                    for weight in model.weights.values()
                },
            }
            for name, model in models.items()
        },
        **_static_scales(pair, models),
        "files": {name: asdict(file) for name, file in files.items()},
    }


def _static_scales(pair: Pair, models: Mapping[str, ModelPlan]) -> dict[str, Any]:
    """Scales of activations and caches that a checkpoint was trained with, which the bundle's kernels do without."""
    found = {
        role: checkpoint.static_scales(
            weight for model in models.values() if model.checkpoint is checkpoint for weight in model.weights.values()
        )
        for role, checkpoint in (("target", pair.target), ("drafter", pair.drafter))
    }
    return {"static_scales": found} if any(found.values()) else {}


def _stored_as(storage: Storage) -> dict[str, Any]:
    algorithm = {"algorithm": storage.algorithm} if storage.algorithm else {}
    return {"format": storage.format.name, **algorithm}


def manifest_sources(pair: Pair) -> dict[str, dict[str, Any]]:
    """Name and file hashes of target, drafter and adapters; reads every byte of them, once a checkpoint."""
    return {
        "target": _source(pair.target) | {"text_sha256": pair.target.text_hashes} | _adapters_of(pair.target),
        "drafter": _source(pair.drafter),
    }


def _signatures_of(info: ModelInfo) -> dict[str, Any]:
    return {
        signature.name: {
            side: {tensor.name: {"shape": list(tensor.shape), "dtype": tensor.dtype} for tensor in tensors}
            for side, tensors in (("inputs", signature.inputs), ("outputs", signature.outputs))
        }
        for signature in info.signatures
    }


def _source(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"name": _source_name(checkpoint), "sha256": checkpoint.hashes}


def _adapters_of(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"adapters": checkpoint.adapter_hashes} if isinstance(checkpoint, AdaptedCheckpoint) else {}


def _source_name(checkpoint: Checkpoint) -> str:
    """A hub id as given; of a folder only its own name, as paths differ between machines."""
    is_folder = Path(checkpoint.source).expanduser().is_dir()
    return checkpoint.folder.absolute().name if is_folder else checkpoint.source
