"""The command that looks at a pair before it goes to a GPU: `fp16-range`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from rich.console import Console

from ..exit_codes import remember_verbose
from .export_options import adapter_option


@click.command("fp16-range", short_help="See whether a pair's activations fit a GPU's float16.")
@click.argument("target")
@click.argument("drafter")
@adapter_option
@click.option(
    "--prompts", "prompts", required=True, type=click.Path(path_type=Path), metavar="FILE.jsonl",
    help='One {"prompt": ...}, {"messages": [...]} or {"text": ...} a line; long and varied ones show most.',
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("-v", "--verbose", is_flag=True, callback=remember_verbose, expose_value=False, help="Show tracebacks.")
def fp16_range_command(target: str, drafter: str, adapters: tuple[str, ...], prompts: Path, as_json: bool) -> None:
    """Show how the activations of TARGET and DRAFTER fit float16, and which --activations to export with.

    Runs transformers' own models, in float32, their weights read layer by layer. Exit code 1 if float16 overflows.

    \b
    gemma-mtp-export fp16-range google/gemma-4-E2B-it \\
        google/gemma-4-E2B-it-assistant --prompts prompts.jsonl
    """
    from ...runtime.parity.fp16_range import fp16_range
    from ..checkpoint.pair import open_pair
    from ..parity import open_oracle
    from .tables.common import show_progress
    from .tables.gpu import print_range

    pair = open_pair(target, drafter, adapters)
    with show_progress(Console(stderr=True), "measuring") as on_progress:
        report = fp16_range(
            open_oracle(pair),
            pair.target.path("tokenizer_config.json").parent,
            prompts,
            lambda done, total: on_progress(f"prompt {done} of {total} done", ""),
        )
    if as_json:
        click.echo(json.dumps(report.as_dict(), indent=2))
    else:
        print_range(report, Console())
    if report.overflows:
        sys.exit(1)
