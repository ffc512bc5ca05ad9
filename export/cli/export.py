"""`export`: two checkpoints in, a folder with the bundle out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ..progress import Reporter
from .export_options import adapter_option, export_options, run_export


@click.command("export", short_help="Turn TARGET and DRAFTER into a bundle for LiteRT-LM.")
@click.argument("target")
@click.argument("drafter")
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), metavar="FOLDER",
    help="New or empty folder; appears when everything in it is whole.",
)  # fmt: skip
@adapter_option
@export_options
def export_command(
    target: str, drafter: str, out: Path, quiet: bool, adapters: tuple[str, ...], **choices: Any
) -> None:
    """Export TARGET and its DRAFTER (hub ids or folders) to FOLDER/model.litertlm.

    \b
    gemma-mtp-export export google/gemma-4-E2B-it \\
        google/gemma-4-E2B-it-assistant -o out/
    """
    from ...runtime.bundle.inspection import inspect_bundle
    from .tables.export import cost_table, next_commands, print_export_summary

    console = Console(stderr=True)
    reporter = Reporter(console, quiet=quiet)
    bundle = run_export(target, drafter, out, reporter, adapters, **choices)
    if not quiet:
        inspection = inspect_bundle(bundle)
        chosen = [part for name in adapters for part in ("--adapter", name)]
        if choices["chat_template"]:
            chosen += ["--chat-template", str(choices["chat_template"])]
        commands = next_commands(out, target, drafter, chosen)
        console.print(cost_table(reporter))
        print_export_summary(inspection, commands, console, inspection.template_verdict)
    click.echo(str(bundle))
