"""`compare`: what recipes cost in bytes, text, acceptance and time; and the smallest mix within bounds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from click.core import ParameterSource
from rich.console import Console

from ....quantize.price import MAX_ACCEPTANCE_LOSS, MAX_KL
from ....quantize.recipes import EVERYWHERE
from ....runtime.errors import UserError
from ....runtime.text.prompts import read_prompts
from ....runtime.threads import MOST_THREADS
from ...exit_codes import CHECK_FAILED, remember_verbose
from ...options import DEFAULT_DRAFT_TOKENS
from ...staging import check_output_file, write_output_file


@click.command("compare", short_help="Measure what recipes cost: bytes, text, acceptance, time.")
@click.argument("target")
@click.argument("drafter")
@click.option("--recipes", "names", default=",".join(EVERYWHERE), show_default=True, metavar="NAME,...",
              help="Recipes, or files that end with .toml; what is lost is counted against fp32.")  # fmt: skip
@click.option("--prompts", "prompts_file", required=True, type=click.Path(path_type=Path), metavar="FILE.jsonl",
              help="Held-out text like your users', all of it compared; more of it, smaller errors.")  # fmt: skip
@click.option("--suggest", "searching", is_flag=True,
              help="Search the smallest mix within the bounds instead; print it as a recipe.")  # fmt: skip
@click.option("--max-kl", type=click.FloatRange(0, min_open=True), default=MAX_KL, show_default=True, metavar="NATS",
              help="With --suggest: of next-token distributions, from the float model's.")  # fmt: skip
@click.option("--max-acceptance-loss", type=click.FloatRange(0, 1), default=MAX_ACCEPTANCE_LOSS, show_default=True,
              metavar="SHARE", help="With --suggest: of fp32's accepted drafts.")  # fmt: skip
@click.option("--max-tokens", type=click.IntRange(1), default=64, show_default=True, help="Of each answer.")
@click.option("--context-length", type=int, metavar="TOKENS", help="Of the bundles that are tried.")
@click.option("--num-draft-tokens", type=int, default=DEFAULT_DRAFT_TOKENS, show_default=True)
@click.option("--skeleton-cache", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
              help="As of `export`: without, graphs are traced for every recipe.")  # fmt: skip
@click.option("--threads", type=click.IntRange(1, MOST_THREADS), metavar="N", help="CPU threads of LiteRT.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write all numbers here.")
@click.option("--html", "html_file", type=click.Path(path_type=Path), metavar="FILE", help="Write a page with plots.")
@click.option("-v", "--verbose", is_flag=True, callback=remember_verbose, expose_value=False, help="Show tracebacks.")
@click.pass_context
def compare_command(
    context: click.Context,
    target: str,
    drafter: str,
    names: str,
    prompts_file: Path,
    searching: bool,
    max_kl: float,
    max_acceptance_loss: float,
    max_tokens: int,
    context_length: int | None,
    num_draft_tokens: int,
    skeleton_cache: Path | None,
    threads: int | None,
    json_file: Path | None,
    html_file: Path | None,
) -> None:
    """Export TARGET and DRAFTER with each recipe, for the CPU, and measure what it costs on your prompts; numbers come
    with their standard errors.

    Bundles are made one at a time among temporary files and removed again.

    With --suggest, what each part costs in int4 and int2 is estimated in torch, with float activations; the smallest
    mix whose costs add up to no more than the bounds is then measured on a bundle. Its recipe goes to standard output:

    \b
    gemma-mtp-export compare TARGET DRAFTER \\
        --prompts FILE.jsonl --suggest > mine.toml
    """
    from ....quantize.recipes import read_recipe
    from ....quantize.writing import as_toml
    from ...bundle.reference import checkpoint_text
    from ...checkpoint.pair import open_pair
    from ...compare.measure import Comparison
    from ...compare.page import as_dict, render
    from ...compare.suggest import Bounds, suggest
    from ...kv_scales import prompt_tokens
    from ...options import resolve_options
    from ...parity import open_oracle
    from ..tables.common import show_progress
    from ..tables.compare import print_prices, print_suggestion

    outputs = {option: file for option, file in (("--json", json_file), ("--html", html_file)) if file}
    for option, file in outputs.items():
        check_output_file(file, option)
    _check_use(context, searching)
    recipes = [read_recipe(name.strip()) for name in names.split(",")]
    if len({recipe.name for recipe in recipes}) < len(recipes):
        raise UserError(f"--recipes: {names!r} names one twice")
    prompts = tuple(read_prompts(prompts_file))
    pair = open_pair(target, drafter)
    if searching and pair.target.packed:
        raise UserError(f"--suggest: {target} holds codes, which are best kept as they are; export it with its default")
    options = resolve_options(
        pair.target_config, context_length=context_length, draft_tokens=num_draft_tokens, backends=("cpu",)
    )
    comparison = Comparison(pair, options, open_oracle(pair), prompts, max_tokens, skeleton_cache, threads)
    bounds, suggestion = Bounds(max_kl, max_acceptance_loss), None
    with show_progress(Console(stderr=True), "comparing") as on_progress:
        if searching:
            text = checkpoint_text(pair).conversation
            suggestion = suggest(comparison, [prompt_tokens(text, each) for each in prompts], bounds, on_progress)
            prices = [suggestion.base, *(price for _, price in suggestion.tried)]
        else:
            prices = [comparison.price(recipe, on_progress) for recipe in recipes]
    about = {"target": target, "drafter": drafter, "prompts": len(prompts), "max_tokens": max_tokens}
    if json_file:
        write_output_file(json_file, json.dumps(as_dict(prices, about, suggestion), indent=2) + "\n", "--json")
    if html_file:
        write_output_file(html_file, render(prices, about), "--html")
    if suggestion is None:
        print_prices(prices, Console())
        return
    print_suggestion(suggestion, bounds, Console(stderr=True))
    recipe = suggestion.recipe(f"{target} with {drafter}")
    if recipe is None:
        sys.exit(CHECK_FAILED)
    click.echo(as_toml(recipe), nl=False)


def _check_use(context: click.Context, searching: bool) -> None:
    """Refuse options that would do nothing."""
    given = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if searching and "names" in given:
        raise UserError("--suggest searches by itself; drop it or --recipes")
    if not searching and given & {"max_kl", "max_acceptance_loss"}:
        raise UserError("--max-kl and --max-acceptance-loss are bounds for --suggest; add it or drop them")
