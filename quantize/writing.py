"""A recipe as the TOML that `read_recipe` reads."""

from __future__ import annotations

import json

from .price import KnownPrice
from .recipes import SCHEMA, Recipe, Rule


def as_toml(recipe: Recipe) -> str:
    """The text of a recipe's file; strings are written as JSON writes them, which TOML reads alike."""
    head = [f"schema = {SCHEMA}", f"about = {_text(recipe.about)}"]
    head += ["keep_trained = true"] if recipe.keep_trained else []
    blocks = ["\n".join(head), *([_price(recipe.price)] if recipe.price else []), *map(_rule, recipe.rules)]
    return "\n\n".join(blocks) + "\n"


def _price(price: KnownPrice) -> str:
    return f"[price]\npair = {_text(price.pair)}\nkl = {price.kl:.4g}\nacceptance_loss = {price.acceptance_loss:.4g}"


def _rule(rule: Rule) -> str:
    stored_as = rule.stored_as
    lines = ["[[rules]]", f"tensors = [{', '.join(map(_text, rule.tensors))}]"]
    lines += [f"layers = {_text(rule.layers)}"] if rule.layers else []
    lines.append(f"format = {_text(stored_as.format.name)}")
    if stored_as.algorithm != next(iter(stored_as.format.algorithms), None):
        lines.append(f"algorithm = {_text(stored_as.algorithm or '')}")
    lines += ["optional = true"] if rule.optional else []
    lines += [f"why = {_text(rule.why)}"] if rule.why else []
    return "\n".join(lines)


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)
