"""`inspect`: what a bundle holds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from rich.console import Console

from ..exit_codes import remember_verbose
from ..options import BACKENDS


@click.command("inspect", short_help="Show what a bundle holds and whether MTP can run.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--backend", type=click.Choice(BACKENDS), default="cpu", show_default=True,
    help="gpu: also check every graph for the GPU and load what can be loaded there; exit code 1 if one is not taken.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with every tensor and operator.")
@click.option("-v", "--verbose", is_flag=True, callback=remember_verbose, expose_value=False, help="Show tracebacks.")
def inspect_command(bundle: Path, backend: str, as_json: bool) -> None:
    """Show what BUNDLE holds and whether MTP can run.

    BUNDLE is a .litertlm file, from here or elsewhere, or an export's folder.
    """
    from ...runtime.bundle.inspection import inspect_bundle
    from ...runtime.gpu.report import gpu_report
    from .tables.gpu import print_gpu_report
    from .tables.inspect import print_inspection

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
