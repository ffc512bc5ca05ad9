"""What `recipes` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ....quantize.formats import FORMATS
from ....quantize.recipes import DEFAULT, Recipe
from .common import foreign, size

Tags = Mapping[str, Mapping[str, int]]


def print_recipes(recipes: Sequence[Recipe], tags: Mapping[str, Tags], console: Console) -> None:
    """One row a recipe, and the formats that recipes choose from."""
    pairs = list(next(iter(tags.values())))
    table = Table("recipe", "what it is for", title="Recipes", title_justify="left", title_style="bold")
    for pair in pairs:
        table.add_column(pair.upper(), justify="right")
    table.add_column("KL", justify="right")
    table.add_column("lost", justify="right")
    for recipe in recipes:
        name = f"{recipe.name} (default)" if recipe.name == DEFAULT else recipe.name
        totals = [size(sum(tags[recipe.name][pair].values())) for pair in pairs]
        price = recipe.price
        cost = (f"{price.kl:.4f}", f"{price.acceptance_loss:.0%}") if price else ("", "")
        table.add_row(name, foreign(recipe.about), *totals, *cost)
    console.print(table)
    if measured := sorted({recipe.price.pair for recipe in recipes if recipe.price}):
        on = foreign(" and ".join(measured))
        console.print(Text("KL in nats from float32, accepted drafts lost: measured on ").append(on), style="dim")
    formats = Table("format", "bits", "scales", "runs on", "note", title="Formats", title_justify="left")
    for form in FORMATS.values():
        scales = f"per block of {form.block}" if form.block else "" if form.is_float else "per channel"
        note = "; ".join(
            filter(None, (f"scales by {', '.join(form.algorithms)}" if form.algorithms else "", form.note))
        )
        formats.add_row(form.name, str(form.bits), scales, ", ".join(form.backends), note)
    console.print(formats)
    console.print(Text("One recipe's rules and bytes: gemma-mtp-export recipes NAME"), style="dim")


def print_recipe(recipe: Recipe, tags: Tags, console: Console) -> None:
    """A recipe's rules in their order, and the bytes of each component."""
    console.print(Text(recipe.name, style="bold"), foreign(recipe.about), soft_wrap=True)
    if recipe.price:
        console.print(foreign(f"cost {recipe.price.pair} {recipe.price}"), soft_wrap=True)
    rules = Table("tensors", "layers", "format", "why", title="Rules, the first that matches decides")
    rules.title_justify = "left"
    for rule in recipe.rules:
        cells = (", ".join(rule.tensors), rule.layers or "all", rule.stored_as.name, rule.why)
        rules.add_row(*map(foreign, cells))
    console.print(rules)
    table = Table("component", title="Bytes, with scales", title_justify="left", show_footer=True)
    table.columns[0].footer = "all weights"
    for pair, components in tags.items():
        table.add_column(pair.upper(), size(sum(components.values())), justify="right")
    for component in dict.fromkeys(name for components in tags.values() for name in components):
        table.add_row(component, *(size(components.get(component, 0)) for components in tags.values()))
    console.print(table)
