"""The whole export as one function: two checkpoints in, a folder with the bundle out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..runtime.bundle.cache_scales import scale_problems
from ..runtime.bundle.container import BundleFile
from ..runtime.bundle.model_file import ModelInfo, read_model
from ..runtime.bundle.names import MANIFEST_NAME, MTP_DRAFTER, PREFILL_DECODE, SMALLEST_CONTEXT_NOTE, TEMPLATE_NOTE
from ..runtime.errors import UserError
from ..runtime.gpu.check import GPU_MODELS, check_model
from ..runtime.scratch import remove_temporary_leftovers
from ..runtime.text.prompts import Prompt
from .bundle.assembly import HASHING, Assembly
from .bundle.manifest import WrittenFile, make_manifest
from .bundle.metadata import executor_metadata, llm_metadata
from .bundle.packing import BundleParts, bundle_writer, copy_section
from .bundle.template import adapted_text, as_dict, explanation, verdict
from .checkpoint.files import describe_left_out
from .checkpoint.hub import sha256_of
from .checkpoint.pair import Pair, fine_tune_note
from .checkpoint.quantized.kept import codes_note, trained_bits
from .checkpoint.quantized.on_lattice import lattice_note, look
from .checks import check_memory, check_places, check_space
from .graphs.plan import plan_models, smallest_context
from .graphs.storage import plan_storage
from .graphs.tracing.skeleton_cache import SkeletonCache
from .graphs.tracing.tracers import Tracers
from .kv_scales import scales_from_norms, scales_from_prompts
from .models.kv_cache import KVSignature, check_shared, kv_signature
from .options import ACTIVATIONS, BACKENDS, ExportOptions
from .parallel import Background, background
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
    tracers: Tracers | None = None,
    show_converter_output: bool = False,
    chat_template: Path | None = None,
    allow_template_difference: bool = False,
    kv_cache_prompts: Sequence[Prompt] = (),
    tflite_files: bool = False,
) -> Path:
    """Write `model.litertlm` and `manifest.json` into the new folder `out`.

    Args:
        pair: from `open_pair`.
        options: from `resolve_options`.
        out: a folder that does not exist or is empty; it appears when everything in it is whole.
        reporter: told what is being done.
        skeleton_cache: folder in which traced graphs are kept for later exports with the same configuration.
        tracers: processes to trace with; by default they are started.
        show_converter_output: let the converter of those that are started write to standard error.
        chat_template: a file with another template than the target's own.
        allow_template_difference: pack the template, too, where LiteRT-LM renders it otherwise than transformers.
        kv_cache_prompts: take the scales of int8 caches from these, not from the norms.
        tflite_files: write each model as a .tflite file as well.

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
    kv = kv_signature(pair.target_config, pair.drafter_config, options.slots, options.kv_cache)
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
    price = options.recipe.price
    # A recipe's price was measured on values, and says nothing of codes.
    if note := codes_note(trained, stored) or (price and price.warning(options.recipe.name)):
        reporter.say(note)
    check_space(out, models, stored, text.tokenizer, tflite_files=tflite_files)
    check_memory()
    scales = _cache_scales(pair, kv, kv_cache_prompts, chat_template, reporter)
    parts = BundleParts(
        text.tokenizer,
        llm_metadata(text, options.advertised_context),
        executor_metadata(pair.target_config, kv),
        ACTIVATIONS[options.activations] if options.activations else None,
        ",".join(options.backends) if options.backends != BACKENDS else None,
        _notes(pair, options, kv) | {TEMPLATE_NOTE: verdict(adapted)},
    )
    assembly = Assembly(
        pair, kv, models, stored, scales, options.backends, reporter, cache, tracers, show_converter_output
    )
    assembly.expect()
    with staged_folder(out) as staging:
        bundle = staging / BUNDLE_NAME
        with names_failure("writing the bundle", bundle), bundle_writer(parts, bundle) as writer:
            assembly.write(writer, bundle)
        finished = BundleFile(bundle)
        with (
            names_failure("hashing the bundle", bundle),
            background(lambda work: _hashed(bundle, reporter, work)) as hashing,
        ):
            infos = _check_written(finished)
            if "gpu" in options.backends:
                _check_gpu(finished)
        files = {BUNDLE_NAME: hashing.result()}
        if tflite_files:
            for name in models:
                path = staging / f"{name}.tflite"
                with names_failure(f"copying {name}", path), reporter.stage(f"Copying {name}", 1):
                    files[path.name] = WrittenFile(*copy_section(finished, name, path))
        manifest = make_manifest(pair, options, kv, models, stored, infos, files)
        if scales:
            source = f"{len(kv_cache_prompts)} prompts" if kv_cache_prompts else "norms"
            manifest["kv_signature"] |= {"scales": scales, "scales_from": source}
        manifest["chat_template"] = as_dict(adapted, Path(text.template_source).name)
        with names_failure("writing the manifest", staging / MANIFEST_NAME):
            (staging / MANIFEST_NAME).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
        for checkpoint in (pair.target, pair.drafter):
            checkpoint.check_unchanged()
    return out / BUNDLE_NAME


def _notes(pair: Pair, options: ExportOptions, kv: KVSignature) -> dict[str, str]:
    """What the bundle's own metadata say to whoever chooses its context."""
    if not kv.is_placeholder:
        return {}
    return {SMALLEST_CONTEXT_NOTE: str(smallest_context(pair.target_config, kv, options))}


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


def _hashed(bundle: Path, reporter: Reporter, work: Background[WrittenFile]) -> WrittenFile:
    """Size and hash, by a second reading: the file begins with what is known last, scales and an identity made of the
    rest."""
    size = bundle.stat().st_size
    with reporter.stage(HASHING, size, in_bytes=True) as advance:

        def on_bytes(count: int) -> None:
            work.check()
            advance(count, "")

        return WrittenFile(size, sha256_of(bundle, on_bytes))


def _check_written(bundle: BundleFile) -> dict[str, ModelInfo]:
    """Check the KV signature on the finished models, which are returned: what the drafter reads, every target signature
    writes."""
    infos = {
        name: read_model(bundle.content(section), f"{bundle.path} ({name})")
        for name, section in bundle.model_sections().items()
    }
    target, drafter = infos[PREFILL_DECODE], infos[MTP_DRAFTER]
    for signature in target.signatures:
        check_shared(signature.caches(written=True), signature.caches(written=False))
        check_shared(signature.caches(written=True), drafter.signatures[0].caches(written=False))
    if problems := scale_problems({name: info.cache_scales for name, info in infos.items()}):
        raise AssertionError(f"the caches' scales do not agree: {problems[0]}")
    return infos


def _check_gpu(bundle: BundleFile) -> None:
    """Check that the GPU backend takes every graph of the finished models that it would run."""
    for name in GPU_MODELS:
        for report in check_model(name, bundle.content(bundle.model_sections()[name])):
            for finding in report.findings:
                raise UserError(
                    f"--backends: the GPU would not run {report.signature} of {name}: {finding};"
                    " export with --backends cpu"
                )
