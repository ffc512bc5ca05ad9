"""`compare`: what recipes cost in bytes, text, acceptance and time."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from ....quantize.recipes import EVERYWHERE
from ....runtime.errors import UserError
from ....runtime.text.prompts import read_prompts
from ....runtime.threads import MOST_THREADS
from ...exit_codes import remember_verbose
from ...options import DEFAULT_DRAFT_TOKENS
from ...staging import check_output_file, write_output_file


@click.command("compare", short_help="Measure what recipes cost: bytes, text, acceptance, time.")
@click.argument("target")
@click.argument("drafter")
@click.option("--recipes", "names", default=",".join(EVERYWHERE), show_default=True, metavar="NAME,...",
              help="Recipes, or files that end with .toml; what is lost is counted against fp32.")  # fmt: skip
@click.option("--prompts", "prompts_file", required=True, type=click.Path(path_type=Path), metavar="FILE.jsonl",
              help="Held-out text like your users'; every token of it is compared.")  # fmt: skip
@click.option("--max-tokens", type=click.IntRange(1), default=64, show_default=True, help="Of each answer.")
@click.option("--context-length", type=int, metavar="TOKENS", help="Of the bundles that are tried.")
@click.option("--num-draft-tokens", type=int, default=DEFAULT_DRAFT_TOKENS, show_default=True)
@click.option("--skeleton-cache", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
              help="As of `export`: without, graphs are traced for every recipe.")  # fmt: skip
@click.option("--threads", type=click.IntRange(1, MOST_THREADS), metavar="N", help="CPU threads of LiteRT.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write all numbers here.")
@click.option("--html", "html_file", type=click.Path(path_type=Path), metavar="FILE", help="Write a page with plots.")
@click.option("-v", "--verbose", is_flag=True, callback=remember_verbose, expose_value=False, help="Show tracebacks.")
def compare_command(
    target: str,
    drafter: str,
    names: str,
    prompts_file: Path,
    max_tokens: int,
    context_length: int | None,
    num_draft_tokens: int,
    skeleton_cache: Path | None,
    threads: int | None,
    json_file: Path | None,
    html_file: Path | None,
) -> None:
    """Export TARGET and DRAFTER with each recipe, for the CPU, and measure what it costs on your prompts.

    Bundles are made one at a time among temporary files and removed again.
    """
    from ....quantize.recipes import read_recipe
    from ...checkpoint.pair import open_pair
    from ...compare.measure import Comparison
    from ...compare.page import COLUMNS, as_dict, cells, render
    from ...options import resolve_options
    from ...parity import open_oracle
    from ..tables.common import show_progress

    outputs = {option: file for option, file in (("--json", json_file), ("--html", html_file)) if file}
    for option, file in outputs.items():
        check_output_file(file, option)
    recipes = [read_recipe(name.strip()) for name in names.split(",")]
    if len({recipe.name for recipe in recipes}) < len(recipes):
        raise UserError(f"--recipes: {names!r} names one twice")
    prompts = tuple(read_prompts(prompts_file))
    pair = open_pair(target, drafter)
    options = resolve_options(
        pair.target_config, context_length=context_length, draft_tokens=num_draft_tokens, backends=("cpu",)
    )
    comparison = Comparison(pair, options, open_oracle(pair), prompts, max_tokens, skeleton_cache, threads)
    with show_progress(Console(stderr=True), "comparing") as on_progress:
        prices = [comparison.price(recipe, on_progress) for recipe in recipes]
    about = {"target": target, "drafter": drafter, "prompts": len(prompts), "max_tokens": max_tokens}
    if json_file:
        write_output_file(json_file, json.dumps(as_dict(prices, about), indent=2) + "\n", "--json")
    if html_file:
        write_output_file(html_file, render(prices, about), "--html")
    # A column for each recipe: twelve measures side by side would not fit a terminal.
    head, *rows = zip(COLUMNS, *(cells(price, prices) for price in prices), strict=True)
    table = Table(*head, title="What recipes cost", title_justify="left", title_style="bold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
