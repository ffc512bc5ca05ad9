"""`demo`: the main job on the small pair that ships with the package."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ..progress import Reporter
from .export_options import export_options, run_export


@click.command("demo", short_help="Export the small pair in this package, run it, verify it.")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Keep the bundle here.  [default: discard it]",
)
@click.option("--prompt", default=None, help="Beginning of a Python program for the small pair to go on with.")
@export_options
def demo_command(out: Path | None, prompt: str | None, quiet: bool, **choices: Any) -> None:
    """Export the small trained pair that ships with this package, run it on stock LiteRT-LM with MTP off and on, and
    compare it with transformers' models."""
    from ...runtime.scratch import scratch_folder
    from ..demo import SMALL_PAIR, compare, parity
    from .tables.demo import print_comparison
    from .tables.parity import print_summary, show_stages

    console = Console()
    with scratch_folder("demo") as folder:
        bundle = run_export(
            str(SMALL_PAIR / "target"),
            str(SMALL_PAIR / "drafter"),
            out or folder / "out",
            Reporter(console, quiet=quiet),
            **choices,
        )
        comparison = compare(bundle, prompt)
        print_comparison(comparison, console)
        with show_stages(Console(quiet=quiet)) as on_progress:
            report = parity(bundle, on_progress)
        print_summary(report, console)
    if not comparison.equal or not report.passed:
        sys.exit(1)
