"""The command that compares a bundle with its torch models: `verify`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from rich.console import Console

from ...runtime.errors import UserError
from ...runtime.native_output import show_litert
from ...runtime.scratch import remove_temporary_leftovers
from ...runtime.text.prompts import DEFAULT_PROMPTS, read_prompts, user_prompt
from ...runtime.threads import MOST_THREADS
from ..exit_codes import CHECK_FAILED, remember_verbose
from ..staging import check_output_file, write_output_file
from .export_options import adapter_option
from .run_options import context_option, refuse_quiet_and_verbose


@click.command("verify", short_help="Compare a bundle with the checkpoints it was made from.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("target")
@click.argument("drafter")
@adapter_option
@click.option(
    "--prompts", "prompts_file", type=click.Path(path_type=Path), metavar="FILE.jsonl",
    help='One {"prompt": ...}, {"messages": [...]} or {"text": ...} a line.  [default: three general prompts]',
)  # fmt: skip
@click.option("--max-tokens", type=int, default=48, show_default=True, help="Of each answer.")
@click.option(
    "--probe-tokens", type=int, metavar="N",
    help="Look at positions below N only, for a quick look at a long context.  [default: the whole context]",
)  # fmt: skip
@click.option(
    "--recipe-thresholds", metavar="FORMAT|FILE.json",
    help="Judge by the limits of this weight format, or of a file.  [default: the bundle's format]",
)  # fmt: skip
@click.option(
    "--chat-template", type=click.Path(path_type=Path), metavar="FILE", help="The file that was given at export."
)
@click.option("--no-stock", is_flag=True, help="Do not run stock LiteRT-LM.")
@click.option("--fail-fast", "stop_at_first_failure", is_flag=True, help="Run no stage after the first that fails.")
@click.option("--max-memory", metavar="SIZE", help="Refuse to begin if more is needed, such as 8GB.")
@click.option(
    "--threads", type=click.IntRange(1, MOST_THREADS), metavar="N",
    help="CPU threads of LiteRT.  [default: all cores, at most 4]",
)  # fmt: skip
@context_option
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write all numbers here.")
@click.option(
    "--html", "html_file", type=click.Path(path_type=Path), metavar="FILE", help="Write a page with plots here."
)
@click.option("-q", "--quiet", is_flag=True, help="Print the verdict only.")
@click.option("-v", "--verbose", is_flag=True, callback=remember_verbose,
              help="Show LiteRT's own messages, and tracebacks.")  # fmt: skip
def verify_command(
    bundle: Path,
    target: str,
    drafter: str,
    adapters: tuple[str, ...],
    prompts_file: Path | None,
    json_file: Path | None,
    html_file: Path | None,
    max_memory: str | None,
    no_stock: bool,
    chat_template: Path | None,
    quiet: bool,
    verbose: bool,
    **choices: int | str | None,
) -> None:
    """Is BUNDLE still the model of TARGET and DRAFTER (hub ids or folders)? Exit code 0: yes, 1: no.

    Compares it with transformers' models, stage by stage, and names the first stage that goes wrong.

    \b
    gemma-mtp-export verify out/ google/gemma-4-E2B-it \\
        google/gemma-4-E2B-it-assistant --html parity.html
    """
    refuse_quiet_and_verbose(quiet, verbose)
    if json_file is not None and json_file == html_file:
        raise UserError(f"--json and --html: both would write {json_file}; give them different names")
    outputs = {option: file for option, file in (("--json", json_file), ("--html", html_file)) if file}
    if verbose:
        click.get_current_context().with_resource(show_litert())
    from ...runtime.parity.options import VerifyOptions
    from ..parity import parse_size, verify_bundle
    from .tables.parity import print_report, show_stages

    for option, file in outputs.items():
        check_output_file(file, option)
    for left in remove_temporary_leftovers():
        if not quiet:
            click.echo(str(left), err=True)
    prompts = read_prompts(prompts_file) if prompts_file else [user_prompt(text) for text in DEFAULT_PROMPTS]
    options = VerifyOptions(tuple(prompts), stock=not no_stock, **choices)  # pyright: ignore[reportArgumentType]
    limit = parse_size(max_memory) if max_memory else None
    with show_stages(Console(stderr=True, quiet=quiet)) as on_progress:
        report = verify_bundle(
            bundle,
            target,
            drafter,
            options,
            adapters=adapters,
            chat_template=chat_template,
            max_memory=limit,
            on_progress=on_progress,
        )
    if json_file:
        write_output_file(json_file, json.dumps(report.as_dict(), indent=2) + "\n", "--json")
    if html_file:
        from ...runtime.parity.report.html import render_html

        write_output_file(html_file, render_html(report), "--html")
    print_report(report, Console(), brief=quiet)
    if not report.passed:
        sys.exit(CHECK_FAILED)
