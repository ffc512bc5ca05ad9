"""The whole export as one function: two checkpoints in, a folder with the bundle out."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..runtime.bundle_file import BundleFile
from ..runtime.errors import UserError
from ..runtime.gpu_check import GPU_MODELS, check_model
from ..runtime.model_file import read_model, read_model_file
from .bind import BoundFile, bind, format_of
from .bundle import MODELS, BundleParts, write_bundle
from .checkpoint import Checkpoint, describe_left_out, sha256_of
from .config import DecoderConfig, DrafterConfig, TargetConfig, check_pair, read_drafter_config, read_target_config
from .convert import convert
from .kv_cache import KVSignature, cache_length, check_shared, kv_signature
from .metadata import executor_metadata, llm_metadata, read_text_files
from .options import ACTIVATIONS, BACKENDS, ExportOptions
from .progress import Reporter
from .signatures import (
    Signature,
    drafter_signature,
    embedder_signature,
    per_layer_embedder_signature,
    target_signatures,
)
from .skeleton import merge
from .sources import read_weight
from .weights import Weight

BUNDLE_NAME = "model.litertlm"
MANIFEST_NAME = "manifest.json"
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
class Pair:
    """A target and a drafter that belong together, with their configurations."""

    target: Checkpoint
    drafter: Checkpoint
    target_config: TargetConfig
    drafter_config: DrafterConfig


def open_pair(target: str, drafter: str) -> Pair:
    """Open both checkpoints (hub id or folder) and check that the drafter was made for the target.

    Raises:
        UserError: one of them cannot be exported, or they do not belong together.
    """
    target_checkpoint = Checkpoint(target)
    target_config = read_target_config(target_checkpoint.config, str(target_checkpoint.path("config.json")))
    drafter_checkpoint = Checkpoint(drafter)
    drafter_where = str(drafter_checkpoint.path("config.json"))
    drafter_config = read_drafter_config(drafter_checkpoint.config, drafter_where)
    check_pair(target_config, drafter_config, drafter_where)
    return Pair(target_checkpoint, drafter_checkpoint, target_config, drafter_config)


def export(
    pair: Pair,
    options: ExportOptions,
    out: Path,
    reporter: Reporter,
    *,
    skeleton_cache: Path | None = None,
    show_converter_output: bool = False,
) -> Path:
    """Write `model.litertlm`, its models as single .tflite files and `manifest.json` into the new folder `out`.

    Args:
        pair: from `open_pair`.
        options: from `resolve_options`.
        out: a folder that does not exist or is empty; it appears when everything in it is whole.
        reporter: told what is being done.
        skeleton_cache: folder in which traced graphs are kept for later exports with the same configuration.
        show_converter_output: let the converter write to standard error.

    Returns:
        Path of the bundle.

    Raises:
        UserError: bad input, or `out` cannot be written.
        ConversionError: the converter failed.
    """
    text = read_text_files(pair.target, pair.target_config)
    for warning in text.warnings:
        reporter.say(f"{pair.target.folder.name}: {warning}")
    kv = kv_signature(
        pair.target_config, pair.drafter_config, cache_length(options.context_length, options.longest_draft)
    )
    models = _models(pair, kv, options)
    for model in models.values():
        model.checkpoint.check(model.weights.values())
    for checkpoint, names in ((pair.target, list(MODELS)[:3]), (pair.drafter, list(MODELS)[3:])):
        used = [weight for name in names for weight in models[name].weights.values()]
        for line in describe_left_out(checkpoint.left_out(used)):
            reporter.say(f"{checkpoint.folder.name}: skipping {line}")

    with staged_folder(out) as staging:
        signatures = [signature for model in models.values() for signature in model.signatures]
        with reporter.stage("Tracing graphs", len(signatures), lines=True) as advance:
            traced = convert(
                signatures,
                cache=skeleton_cache,
                on_progress=lambda name: advance(1, name),
                show_output=show_converter_output,
            )
        bound: dict[str, BoundFile] = {}
        paths = {name: staging / f"{name}.tflite" for name in models}
        for name, model in models.items():
            skeleton = merge([traced[signature.name] for signature in model.signatures])
            total = sum(_elements(weight) for weight in model.weights.values())
            with reporter.stage(f"Writing {name}", total) as advance:
                bound[name] = bind(
                    skeleton,
                    model.weights,
                    options.recipe,
                    lambda weight, model=model: read_weight(model.checkpoint, model.config, weight),
                    paths[name],
                    lambda weight, advance=advance: advance(_elements(weight), weight.name),
                )
        _check_written(paths)
        if "gpu" in options.backends:
            _check_gpu(paths)
        with reporter.stage("Packing the bundle", 1):
            parts = BundleParts(
                paths,
                text.tokenizer,
                llm_metadata(text, options.context_length),
                executor_metadata(pair.target_config, kv),
                ACTIVATIONS[options.activations] if options.activations else None,
                ",".join(options.backends) if options.backends != BACKENDS else None,
            )
            write_bundle(parts, staging / BUNDLE_NAME)
            manifest = _manifest(pair, options, kv, models, bound, staging)
            (staging / MANIFEST_NAME).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
    return out / BUNDLE_NAME


@dataclass(frozen=True)
class _Model:
    """One .tflite file: its signatures, and the checkpoint its weights come from."""

    signatures: list[Signature]
    checkpoint: Checkpoint
    config: DecoderConfig

    @property
    def weights(self) -> dict[str, Weight]:
        return {weight.name: weight for signature in self.signatures for weight in signature.weights}


def _models(pair: Pair, kv: KVSignature, options: ExportOptions) -> dict[str, _Model]:
    target, drafter = pair.target_config, pair.drafter_config
    signatures = {
        "prefill_decode": target_signatures(target, kv, options),
        "embedder": [embedder_signature(target)],
        "per_layer_embedder": [per_layer_embedder_signature(target)],
    }
    models = {name: _Model(entries, pair.target, target) for name, entries in signatures.items()}
    return {**models, "mtp_drafter": _Model([drafter_signature(target, drafter, kv)], pair.drafter, drafter)}


def _elements(weight: Weight) -> int:
    count = 1
    for size in weight.shape:
        count *= size
    return count


def _check_written(paths: dict[str, Path]) -> None:
    """Check the KV signature on the finished files: what the drafter reads, every target signature writes."""
    target, drafter = (read_model_file(paths[name]) for name in ("prefill_decode", "mtp_drafter"))
    for signature in target.signatures:
        check_shared(signature.caches(written=True), signature.caches(written=False))
        check_shared(signature.caches(written=True), drafter.signatures[0].caches(written=False))


def _check_gpu(paths: dict[str, Path]) -> None:
    """Check that the GPU backend takes every graph of the finished files that it would run."""
    for name in GPU_MODELS:
        with paths[name].open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        for report in check_model(name, content):
            for finding in report.findings:
                raise UserError(
                    f"--backends: the GPU would not run {report.signature} of {name}: {finding};"
                    " export with --backends cpu"
                )


@contextlib.contextmanager
def staged_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its name when the block ends well, and is removed when it does not.

    Raises:
        UserError: `out` is a file or holds something, or its parent cannot be written.
    """
    out = out.absolute()
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; expected a new or empty folder")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out}: is not empty; expected a new or empty folder")
    missing = [folder for folder in out.parents if not folder.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name}-unfinished-", dir=out.parent))
        staging.chmod(0o755)
        if out.is_dir() and not os.access(out, os.W_OK):
            staging.rmdir()
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); choose another folder") from error
    try:
        yield staging
        os.replace(staging, out)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _manifest(
    pair: Pair,
    options: ExportOptions,
    kv: KVSignature,
    models: dict[str, _Model],
    bound: dict[str, BoundFile],
    staging: Path,
) -> dict[str, Any]:
    """What went in, what was chosen and what came out; nothing that differs between two runs on the same input."""
    bundle = staging / BUNDLE_NAME
    files = {f"{name}.tflite": {"bytes": file.size, "sha256": file.sha256} for name, file in bound.items()}
    files[BUNDLE_NAME] = {"bytes": bundle.stat().st_size, "sha256": sha256_of(bundle)}
    return {
        "manifest_version": _MANIFEST_VERSION,
        "sources": {
            role: {"name": _source_name(checkpoint), "sha256": checkpoint.hashes}
            for role, checkpoint in (("target", pair.target), ("drafter", pair.drafter))
        },
        "options": asdict(options),
        "packages": {package: version(package) for package in _RECORDED_PACKAGES},
        "kv_signature": {
            "length": kv.length,
            "target": {name: list(shape) for name, shape in kv.target_shapes().items()},
            "drafter": {name: list(shape) for name, shape in kv.drafter_shapes().items()},
        },
        "models": {
            name: {
                "signatures": _signatures_of(BundleFile(bundle), name),
                "weights": {
                    weight.name: {"shape": list(weight.shape), "format": format_of(weight, options.recipe)}
                    for weight in model.weights.values()
                },
            }
            for name, model in models.items()
        },
        "files": files,
    }


def _signatures_of(bundle: BundleFile, name: str) -> dict[str, Any]:
    info = read_model(bundle.content(bundle.model_sections()[name]), name)
    return {
        signature.name: {
            side: {tensor.name: {"shape": list(tensor.shape), "dtype": tensor.dtype} for tensor in tensors}
            for side, tensors in (("inputs", signature.inputs), ("outputs", signature.outputs))
        }
        for signature in info.signatures
    }


def _source_name(checkpoint: Checkpoint) -> str:
    """A hub id as given; of a folder only its own name, as paths differ between machines."""
    is_folder = Path(checkpoint.source).expanduser().is_dir()
    return checkpoint.folder.absolute().name if is_folder else checkpoint.source
