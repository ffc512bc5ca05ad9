"""What the commands that export have in common: options, and the export itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from ...quantize.recipes import DEFAULT, DEFAULT_FOR_CODES, NAMES
from ..exit_codes import remember_verbose
from ..models.kv_cache import CACHE_DTYPES, CacheFormat
from ..options import (
    ACTIVATIONS,
    BACKENDS,
    DEFAULT_CONTEXT_LENGTH,
    DEFAULT_DRAFT_TOKENS,
    DEFAULT_PREFILL_LENGTHS,
    MODEST_CONTEXT_LENGTH,
    SHORT_PREFILL,
)
from ..progress import Reporter
from .run_options import refuse_quiet_and_verbose


def _lengths(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r}; expected whole numbers with commas between, such as 128,1024") from None


def _names(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(","))


def adapter_option(command: Callable[..., None]) -> Callable[..., None]:
    """`--adapter`, of the commands that read a target."""
    return click.option(
        "--adapter", "adapters", multiple=True, metavar="FOLDER",
        help="A LoRA adapter (PEFT's format; hub id or folder) to merge into TARGET; again for each further one.",
    )(command)  # fmt: skip


def export_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options of every command that exports."""
    defaults = ",".join(map(str, DEFAULT_PREFILL_LENGTHS))
    for decorate in reversed(
        [
            click.option(
                "--weights", metavar="NAME|FILE.toml",
                help=f"How weights are stored: {', '.join(NAMES)} or a recipe of yours; `recipes` explains them."
                f"  [default: {DEFAULT}; {DEFAULT_FOR_CODES} for checkpoints that hold codes]",
            ),
            click.option(
                "--activations", type=click.Choice(list(ACTIVATIONS)),
                help="What a GPU computes in; mixed is LiteRT-LM's fp32_fp16.  [default: what LiteRT-LM chooses]",
            ),
            click.option(
                "--backends", callback=_names, default=",".join(BACKENDS), show_default=True, metavar="NAME,...",
                help="Where target and drafter must run: graphs are checked for it, and run nowhere else.",
            ),
            click.option(
                "--num-draft-tokens", type=int, default=DEFAULT_DRAFT_TOKENS, show_default=True,
                help="Tokens drafted per round; fixed in the bundle (verify takes one more).",
            ),
            click.option(
                "--verify-lengths", callback=_lengths, metavar="N,N,...",
                help="Further draft lengths for this project's runtime to choose from; they share all weights.",
            ),
            click.option(
                "--context-length", type=int, metavar="TOKENS",
                help="The longest context, prompt and answer together, that can be chosen when the bundle is loaded; "
                f"{MODEST_CONTEXT_LENGTH} where nobody does.  [default: {DEFAULT_CONTEXT_LENGTH}, or the model's "
                "maximum]",
            ),
            click.option(
                "--fixed-context", is_flag=True,
                help="Let nobody choose: the context is --context-length, "
                f"{MODEST_CONTEXT_LENGTH} by default, and caches are a little longer.",
            ),
            click.option(
                "--kv-cache", type=click.Choice(list(CACHE_DTYPES)), default="fp32", show_default=True,
                help="How the KV caches are stored: int8 takes a quarter of fp32's memory, fp16 half.",
            ),
            click.option(
                "--kv-cache-prompts", type=click.Path(path_type=Path), metavar="FILE.jsonl",
                help="Take int8 caches' scales from these prompts.  [default: from the norms before the caches]",
            ),
            click.option(
                "--prefill-lengths", callback=_lengths, metavar="N,N,...",
                help=f"Chunk sizes; {SHORT_PREFILL} joins them where none is that short.  [default: {defaults}]",
            ),
            click.option(
                "--skeleton-cache", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
                help="Keep traced graphs here, and take them from here when the configuration is the same.",
            ),
            click.option(
                "--chat-template", type=click.Path(path_type=Path), metavar="FILE",
                help="Pack this template instead of the target's own.",
            ),
            click.option(
                "--allow-template-difference", is_flag=True,
                help="Pack the template, too, where LiteRT-LM renders it otherwise than transformers.",
            ),
            click.option(
                "--tflite-files", is_flag=True,
                help="Write each model as a .tflite file beside the bundle as well; takes twice the space.",
            ),
            click.option("-q", "--quiet", is_flag=True, help="Print only the result and errors."),
            click.option(
                "-v", "--verbose", is_flag=True, callback=remember_verbose,
                help="Show the converter's own output, and tracebacks.",
            ),
        ]
    ):  # fmt: skip
        command = decorate(command)
    return command


def run_export(
    target: str,
    drafter: str,
    out: Path,
    reporter: Reporter,
    adapters: tuple[str, ...] = (),
    *,
    weights: str | None,
    activations: str | None,
    backends: tuple[str, ...],
    num_draft_tokens: int,
    context_length: int | None,
    fixed_context: bool,
    prefill_lengths: tuple[int, ...] | None,
    verify_lengths: tuple[int, ...] | None,
    kv_cache: CacheFormat,
    kv_cache_prompts: Path | None,
    skeleton_cache: Path | None,
    verbose: bool,
    chat_template: Path | None,
    allow_template_difference: bool,
    tflite_files: bool,
) -> Path:
    """Open the pair, resolve the options, show them and export; path of the bundle."""
    from ..graphs.tracing.tracers import started_early

    refuse_quiet_and_verbose(reporter.quiet, verbose)
    # Before torch, which takes a second to load.
    with started_early(skeleton_cache, show_output=verbose) as running:
        from ...runtime.text.prompts import read_prompts
        from ..checkpoint.pair import open_pair
        from ..options import default_weights, resolve_options
        from ..pipeline import export
        from .tables.export import options_table

        pair = open_pair(target, drafter, adapters)
        options = resolve_options(
            pair.target_config,
            context_length=context_length,
            prefill_lengths=prefill_lengths,
            draft_tokens=num_draft_tokens,
            verify_lengths=verify_lengths or (),
            weights=weights or default_weights(pair),
            activations=activations,
            backends=backends,
            kv_cache=kv_cache,
            fixed_context=fixed_context,
        )
        calibration = read_prompts(kv_cache_prompts) if kv_cache_prompts else ()
        if not reporter.quiet:
            reporter.console.print(options_table(pair, options, out))
        return export(
            pair,
            options,
            out,
            reporter,
            skeleton_cache=skeleton_cache,
            tracers=running,
            show_converter_output=verbose,
            chat_template=chat_template,
            allow_template_difference=allow_template_difference,
            kv_cache_prompts=calibration,
            tflite_files=tflite_files,
        )
