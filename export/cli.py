"""The `gemma-mtp-export` command: parse, call, print."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click
from rich.console import Console

from ..quantize.recipes import RECIPES
from ..runtime.errors import UserError
from ..runtime.native_output import silence_loggers, silence_native_stderr
from .cli_gpu import fp16_range_command
from .cli_parity import verify_command
from .cli_runtime import benchmark_command, generate_command
from .options import (
    ACTIVATIONS,
    BACKENDS,
    DEFAULT_CONTEXT_LENGTH,
    DEFAULT_DRAFT_TOKENS,
    DEFAULT_PREFILL_LENGTHS,
    SHORT_PREFILL,
)

_BAD_INPUT = 2


def _lengths(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r}; expected whole numbers with commas between, such as 128,1024") from None


def _names(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(","))


def _export_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options of every command that exports."""
    defaults = ",".join(map(str, DEFAULT_PREFILL_LENGTHS))
    for decorate in reversed(
        [
            click.option(
                "--weights", type=click.Choice(list(RECIPES)), default="int8", show_default=True,
                help="How weights are stored, in target and drafter: int8 is per channel, symmetric.",
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
                help=f"Prompt and answer together.  [default: {DEFAULT_CONTEXT_LENGTH}, or the model's maximum]",
            ),
            click.option(
                "--prefill-lengths", callback=_lengths, metavar="N,N,...",
                help=f"Chunk sizes; {SHORT_PREFILL} joins them where none is that short.  [default: {defaults}]",
            ),
            click.option(
                "--skeleton-cache", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
                help="Keep traced graphs here, and take them from here when the configuration is the same.",
            ),
            click.option("-q", "--quiet", is_flag=True, help="Print only the result and errors."),
            click.option("-v", "--verbose", is_flag=True, help="Show the converter's own output."),
        ]
    ):  # fmt: skip
        command = decorate(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("gemma-mtp-export"), prog_name="gemma-mtp-export")
def cli() -> None:
    """Export Gemma 4 and its MTP drafter to a bundle that LiteRT-LM decodes speculatively."""


@cli.command("export")
@click.argument("target")
@click.argument("drafter")
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), metavar="FOLDER",
    help="New or empty folder; appears when everything in it is whole.",
)  # fmt: skip
@_export_options
def export_command(target: str, drafter: str, out: Path, quiet: bool, **choices: Any) -> None:
    """Export TARGET and its DRAFTER (hub ids or folders) to FOLDER/model.litertlm.

    \b
    gemma-mtp-export export google/gemma-4-E2B-it google/gemma-4-E2B-it-assistant -o out/
    """
    console = Console(stderr=True)
    bundle = _run_export(target, drafter, out, console, quiet, **choices)
    click.echo(str(bundle))


def _run_export(
    target: str,
    drafter: str,
    out: Path,
    console: Console,
    quiet: bool,
    *,
    weights: str,
    activations: str | None,
    backends: tuple[str, ...],
    num_draft_tokens: int,
    context_length: int | None,
    prefill_lengths: tuple[int, ...] | None,
    verify_lengths: tuple[int, ...] | None,
    skeleton_cache: Path | None,
    verbose: bool,
) -> Path:
    from .options import resolve_options
    from .pipeline import export, open_pair
    from .progress import Reporter
    from .tables import options_table

    pair = open_pair(target, drafter)
    options = resolve_options(
        pair.target_config,
        context_length=context_length,
        prefill_lengths=prefill_lengths,
        draft_tokens=num_draft_tokens,
        verify_lengths=verify_lengths or (),
        weights=weights,
        activations=activations,
        backends=backends,
    )
    if not quiet:
        console.print(options_table(pair, options, out))
    reporter = Reporter(console, quiet=quiet)
    return export(pair, options, out, reporter, skeleton_cache=skeleton_cache, show_converter_output=verbose)


@cli.command("inspect")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--backend", type=click.Choice(BACKENDS), default="cpu", show_default=True,
    help="gpu: also check every graph for the GPU and load what can be loaded there; exit code 1 if one is not taken.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with every tensor and operator.")
def inspect_command(bundle: Path, backend: str, as_json: bool) -> None:
    """Show what BUNDLE, a .litertlm file from here or elsewhere, holds and whether MTP can run."""
    from ..runtime.gpu_report import gpu_report
    from ..runtime.inspection import inspect_bundle
    from .tables import print_inspection
    from .tables_gpu import print_gpu_report

    inspection = inspect_bundle(bundle)
    report = gpu_report(inspection.bundle) if backend == "gpu" else None
    if as_json:
        click.echo(json.dumps(inspection.as_dict() | ({"gpu": report.as_dict()} if report else {}), indent=2))
    else:
        print_inspection(inspection, Console())
        if report:
            print_gpu_report(report, Console())
    if report and not report.taken:
        sys.exit(1)


@cli.command("demo")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Keep the bundle here.  [default: discard it]",
)
@click.option("--prompt", default=None, help="Beginning of a Python program for the small pair to go on with.")
@_export_options
def demo_command(out: Path | None, prompt: str | None, quiet: bool, **choices: Any) -> None:
    """Export the small trained pair that ships with this package, run it on stock LiteRT-LM with MTP off and on, and
    compare it with transformers' models."""
    import tempfile

    from .demo import DEMO_PROMPT, SMALL_PAIR, compare, parity
    from .tables import print_comparison
    from .tables_parity import print_summary, show_stages

    console = Console()
    with tempfile.TemporaryDirectory(prefix="gemma-mtp-demo-") as folder:
        bundle = _run_export(
            str(SMALL_PAIR / "target"),
            str(SMALL_PAIR / "drafter"),
            out or Path(folder, "out"),
            console,
            quiet,
            **choices,
        )
        comparison = compare(bundle, prompt or DEMO_PROMPT)
        print_comparison(comparison, console)
        silence_native_stderr()
        silence_loggers()
        with show_stages(Console(quiet=quiet)) as on_progress:
            report = parity(bundle, on_progress)
        print_summary(report, console)
    if not comparison.equal or not report.passed:
        sys.exit(1)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Take SIGTERM as Ctrl-C is taken, also where SIGINT itself is ignored, as in a shell's background job."""
    raise KeyboardInterrupt


cli.add_command(generate_command)
cli.add_command(benchmark_command)
cli.add_command(verify_command)
cli.add_command(fp16_range_command)


def main() -> NoReturn:
    """Entry point: errors a person can mend become one line and exit code 2."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        sys.exit(cli.main(prog_name="gemma-mtp-export", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
    except (UserError, click.ClickException) as error:
        message = error.format_message() if isinstance(error, click.ClickException) else str(error)
        click.echo(f"Error: {' '.join(message.split())}", err=True)
    except (KeyboardInterrupt, click.Abort):
        click.echo("Error: interrupted; nothing was written", err=True)
    except OSError as error:
        click.echo(f"Error: {error.filename or 'output'}: {error.strerror or error}", err=True)
    sys.exit(_BAD_INPUT)


if __name__ == "__main__":
    main()
