"""`recipes`: what weights can be stored as, and how large that makes E2B and E4B."""

from __future__ import annotations

import json
from dataclasses import asdict

import click
from rich.console import Console

from ...options import BACKENDS


@click.command("recipes", short_help="List and explain how weights can be stored.")
@click.argument("recipe", required=False, metavar="[NAME|FILE.toml]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def recipes_command(recipe: str | None, as_json: bool) -> None:
    """List the recipes for `export --weights`, with the bytes that each makes of E2B and E4B; or explain one of them.

    \b
    gemma-mtp-export recipes mixed
    """
    from ....quantize.recipes import NAMES, read_recipe
    from ...compare.sizes import price_tags
    from ..tables.recipes import print_recipe, print_recipes

    chosen = [read_recipe(name) for name in ([recipe] if recipe else NAMES)]
    tags = {each.name: price_tags(each, BACKENDS) for each in chosen}
    if as_json:
        found = {
            each.name: each.as_dict() | {"price": asdict(each.price) if each.price else None, "bytes": tags[each.name]}
            for each in chosen
        }
        click.echo(json.dumps(found, indent=2))
    elif recipe:
        print_recipe(chosen[0], tags[chosen[0].name], Console())
    else:
        print_recipes(chosen, tags, Console())
