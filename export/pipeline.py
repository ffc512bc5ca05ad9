"""The whole export as one function: two checkpoints in, a folder with the bundle out."""

from __future__ import annotations

import json
import mmap
from collections.abc import Sequence
from pathlib import Path

from ..runtime.bundle.cache_scales import scale_problems
from ..runtime.bundle.model_file import read_model_file
from ..runtime.bundle.names import MANIFEST_NAME, MTP_DRAFTER, PREFILL_DECODE, TEMPLATE_NOTE
from ..runtime.errors import UserError
from ..runtime.gpu.check import GPU_MODELS, check_model
from ..runtime.scratch import remove_temporary_leftovers
from ..runtime.text.prompts import Prompt
from .bundle.manifest import make_manifest
from .bundle.metadata import executor_metadata, llm_metadata
from .bundle.packing import BundleParts, write_bundle
from .bundle.template import adapted_text, as_dict, explanation, verdict
from .checkpoint.files import describe_left_out
from .checkpoint.pair import Pair, fine_tune_note
from .checkpoint.quantized.kept import codes_note, read_stored, trained_bits
from .checkpoint.quantized.on_lattice import lattice_note, look
from .checks import check_places, check_space
from .graphs.bind import BoundFile, bind
from .graphs.blocks import SLOTS_PER_BLOCK, loop_over_blocks
from .graphs.cache_scales import set_cache_scales
from .graphs.convert import convert
from .graphs.plan import elements, plan_models
from .graphs.skeleton import merge
from .graphs.skeleton_cache import SkeletonCache
from .graphs.storage import plan_storage
from .kv_scales import scales_from_norms, scales_from_prompts
from .models.kv_cache import KVSignature, cache_length, check_shared, kv_signature
from .options import ACTIVATIONS, BACKENDS, ExportOptions
from .progress import Reporter
from .staging import names_failure, remove_unfinished, staged_folder
from .text.files import read_text_files

BUNDLE_NAME = "model.litertlm"


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
    kv_cache_prompts: Sequence[Prompt] = (),
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
        kv_cache_prompts: take the scales of int8 caches from these, not from the norms.

    Returns:
        Path of the bundle.

    Raises:
        UserError: bad input, or `out` cannot be written.
        ConversionError: the converter failed.
    """
    cache = SkeletonCache(skeleton_cache, reporter.say) if skeleton_cache else None
    check_places(pair, out, cache)
    for left in (*remove_unfinished(out.absolute().parent), *remove_temporary_leftovers()):
        reporter.say(str(left))
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
    length = cache_length(options.context_length, options.longest_draft)
    kv = kv_signature(pair.target_config, pair.drafter_config, length, options.kv_cache)
    models = plan_models(pair, kv, options)
    for model in models.values():
        model.checkpoint.check(model.weights.values())
    for role, checkpoint in (("target", pair.target), ("drafter", pair.drafter)):
        its_models = [model for model in models.values() if model.checkpoint is checkpoint]
        used = [weight for model in its_models for weight in model.weights.values()]
        if note := lattice_note(role, look(checkpoint, used)):
            reporter.say(note)
        for line in describe_left_out(checkpoint.left_out(used)):
            reporter.say(f"{checkpoint.folder.name}: skipping {line}")

    trained = {name: trained_bits(model.checkpoint, model.weights.values()) for name, model in models.items()}
    stored = plan_storage(models, options.recipe, options.backends, trained)
    if note := codes_note(trained, stored):
        reporter.say(note)
    check_space(out, models, stored, text.tokenizer)
    scales = _cache_scales(pair, kv, kv_cache_prompts, chat_template, reporter)
    with staged_folder(out) as staging:
        signatures = [signature for model in models.values() for signature in model.signatures]
        with (
            names_failure("tracing graphs", staging),
            reporter.stage("Tracing graphs", len(signatures), lines=True) as advance,
        ):
            traced = convert(
                signatures,
                cache=cache,
                on_progress=lambda name: advance(1, name),
                show_output=show_converter_output,
            )
        _check_sources(pair)
        bound: dict[str, BoundFile] = {}
        paths = {name: staging / f"{name}.tflite" for name in models}
        for name, model in models.items():
            skeleton = merge([traced[signature.name] for signature in model.signatures])
            set_cache_scales(skeleton, scales)
            loop_over_blocks(skeleton, pair.target_config.sliding.window or SLOTS_PER_BLOCK)
            total = sum(elements(weight) for weight in model.weights.values())
            with names_failure(f"writing {name}", paths[name]), reporter.stage(f"Writing {name}", total) as advance:
                bound[name] = bind(
                    skeleton,
                    model.weights,
                    stored[name],
                    lambda weight, model=model, stored=stored[name]: read_stored(
                        model.checkpoint, model.config, weight, stored[weight.name]
                    ),
                    paths[name],
                    lambda weight, advance=advance: advance(elements(weight), weight.name),
                )
        _check_written(paths)
        if "gpu" in options.backends:
            _check_gpu(paths)
        with names_failure("packing the bundle", staging / BUNDLE_NAME), reporter.stage("Packing the bundle", 1):
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
            manifest = make_manifest(pair, options, kv, models, stored, bound, staging / BUNDLE_NAME)
            if scales:
                source = f"{len(kv_cache_prompts)} prompts" if kv_cache_prompts else "norms"
                manifest["kv_signature"] |= {"scales": scales, "scales_from": source}
            manifest["chat_template"] = as_dict(adapted, Path(text.template_source).name)
            (staging / MANIFEST_NAME).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
        _check_sources(pair)
    return out / BUNDLE_NAME


def _check_sources(pair: Pair) -> None:
    """Check that everything that was read came from the checkpoints as they were opened, and still are."""
    pair.target.check_unchanged()
    pair.drafter.check_unchanged()


def _cache_scales(
    pair: Pair, kv: KVSignature, prompts: Sequence[Prompt], chat_template: Path | None, reporter: Reporter
) -> dict[str, float]:
    """The scales of int8 caches by name; empty for caches of other formats."""
    if kv.format != "int8":
        if prompts:
            raise UserError(f"--kv-cache-prompts: is for int8 caches, these are {kv.format}; drop it or --kv-cache")
        return {}
    if not prompts:
        return scales_from_norms(pair, kv)
    with reporter.stage("Running prompts for the caches' scales", 1):
        return scales_from_prompts(pair, kv, prompts, chat_template)


def _check_written(paths: dict[str, Path]) -> None:
    """Check the KV signature on the finished files: what the drafter reads, every target signature writes."""
    target, drafter = (read_model_file(paths[name]) for name in (PREFILL_DECODE, MTP_DRAFTER))
    for signature in target.signatures:
        check_shared(signature.caches(written=True), signature.caches(written=False))
        check_shared(signature.caches(written=True), drafter.signatures[0].caches(written=False))
    places = {name: read_model_file(path).cache_scales for name, path in paths.items()}
    if problems := scale_problems(places):
        raise AssertionError(f"the caches' scales do not agree: {problems[0]}")


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
