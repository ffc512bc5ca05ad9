"""`benchmark`: does MTP pay on this machine? Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ...runtime.errors import UserError
from ...runtime.text.prompts import DEFAULT_PROMPTS, user_prompt
from .run_options import load_for, prompts_given, run_options
from .tables.benchmark import print_benchmark
from .tables.common import show_progress


@click.command("benchmark", short_help="Measure whether MTP pays here, and with which draft length.")
@run_options(max_tokens=128, again="another prompt")
@click.option(
    "--repetitions", type=click.IntRange(1), default=3, show_default=True, metavar="N",
    help="Measure every draft length N times, in turns; more show better what is noise.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def benchmark_command(
    bundle: Path,
    prompts: tuple[str, ...],
    prompts_file: Path | None,
    raw: bool,
    repetitions: int,
    as_json: bool,
    **choices: Any,
) -> None:
    """Does MTP pay here? Measure BUNDLE's steps and runs on this machine, and say which draft length to export.

    Acceptance depends on the text: give prompts like your users'. Without any, three general ones are used.
    """
    from ...runtime.benchmark import benchmark
    from ...runtime.decoding.generation import GenerationOptions

    if prompts and prompts_file:
        raise UserError("expected either --prompt TEXT or --prompts FILE.jsonl, not both")
    if raw and not prompts and not prompts_file:
        raise UserError("--raw: there is no --prompt to take so; add one, or leave it out")
    asked = prompts_given(prompts, prompts_file, raw) or [user_prompt(text) for text in DEFAULT_PROMPTS]
    options = GenerationOptions(max_tokens=choices["max_tokens"])
    model = load_for(bundle, choices["threads"], choices["context_length"], choices["verbose"])
    with show_progress(Console(stderr=True), "measuring") as on_progress:
        report = benchmark(model, asked, options, repetitions=repetitions, on_progress=on_progress)
    if as_json:
        click.echo(json.dumps(report.as_dict(), indent=2))
    else:
        print_benchmark(report, Console())
