"""The whole export as one function: two checkpoints in, a folder with the bundle out."""

from __future__ import annotations

import json
import mmap
from pathlib import Path

from ..runtime.bundle.model_file import read_model_file
from ..runtime.bundle.names import MTP_DRAFTER, PREFILL_DECODE, TEMPLATE_NOTE
from ..runtime.errors import UserError
from ..runtime.gpu.check import GPU_MODELS, check_model
from .bundle.manifest import make_manifest
from .bundle.metadata import executor_metadata, llm_metadata
from .bundle.packing import MODELS, BundleParts, write_bundle
from .bundle.template import adapted_text, as_dict, explanation, verdict
from .checkpoint.files import describe_left_out
from .checkpoint.pair import Pair, fine_tune_note
from .checkpoint.values import read_weight
from .graphs.bind import BoundFile, bind
from .graphs.blocks import SLOTS_PER_BLOCK, loop_over_blocks
from .graphs.convert import convert
from .graphs.plan import elements, plan_models
from .graphs.skeleton import merge
from .models.kv_cache import cache_length, check_shared, kv_signature
from .options import ACTIVATIONS, BACKENDS, ExportOptions
from .progress import Reporter
from .staging import staged_folder
from .text.files import read_text_files

BUNDLE_NAME = "model.litertlm"
MANIFEST_NAME = "manifest.json"


def export(
    pair: Pair,
    options: ExportOptions,
    out: Path,
    reporter: Reporter,
    *,
    skeleton_cache: Path | None = None,
    show_converter_output: bool = False,
    chat_template: Path | None = None,
    allow_template_difference: bool = False,
) -> Path:
    """Write `model.litertlm`, its models as single .tflite files and `manifest.json` into the new folder `out`.

    Args:
        pair: from `open_pair`.
        options: from `resolve_options`.
        out: a folder that does not exist or is empty; it appears when everything in it is whole.
        reporter: told what is being done.
        skeleton_cache: folder in which traced graphs are kept for later exports with the same configuration.
        show_converter_output: let the converter write to standard error.
        chat_template: a file with another template than the target's own.
        allow_template_difference: pack the template, too, where LiteRT-LM renders it otherwise than transformers.

    Returns:
        Path of the bundle.

    Raises:
        UserError: bad input, or `out` cannot be written.
        ConversionError: the converter failed.
    """
    for line in (*pair.notes, fine_tune_note(pair)):
        if line:
            reporter.say(line)
    text, adapted = adapted_text(
        read_text_files(pair.target, pair.target_config, chat_template), allow_difference=allow_template_difference
    )
    reporter.say(f"Chat template: {verdict(adapted)}")
    for line in explanation(adapted):
        reporter.say(line)
    for warning in text.warnings:
        reporter.say(f"{pair.target.folder.name}: {warning}")
    kv = kv_signature(
        pair.target_config, pair.drafter_config, cache_length(options.context_length, options.longest_draft)
    )
    models = plan_models(pair, kv, options)
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
            loop_over_blocks(skeleton, pair.target_config.sliding.window or SLOTS_PER_BLOCK)
            total = sum(elements(weight) for weight in model.weights.values())
            with reporter.stage(f"Writing {name}", total) as advance:
                bound[name] = bind(
                    skeleton,
                    model.weights,
                    options.recipe,
                    lambda weight, model=model: read_weight(model.checkpoint, model.config, weight),
                    paths[name],
                    lambda weight, advance=advance: advance(elements(weight), weight.name),
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
                {TEMPLATE_NOTE: verdict(adapted)},
            )
            write_bundle(parts, staging / BUNDLE_NAME)
            manifest = make_manifest(pair, options, kv, models, bound, staging / BUNDLE_NAME)
            manifest["chat_template"] = as_dict(adapted, Path(text.template_source).name)
            (staging / MANIFEST_NAME).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
    return out / BUNDLE_NAME


def _check_written(paths: dict[str, Path]) -> None:
    """Check the KV signature on the finished files: what the drafter reads, every target signature writes."""
    target, drafter = (read_model_file(paths[name]) for name in (PREFILL_DECODE, MTP_DRAFTER))
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
