"""Recipes: which format each kind of weight is stored in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Format = Literal["fp32", "int8"]


@dataclass(frozen=True)
class Recipe:
    """Formats of the two kinds of large weights; norms, scalars, rotary tables and token ids are always exact.

    `linear` is for the `[out, in]` weights of matrix products, `table` for the rows of embedding tables.
    """

    name: str
    linear: Format
    table: Format


RECIPES = {recipe.name: recipe for recipe in (Recipe("fp32", "fp32", "fp32"), Recipe("int8", "int8", "int8"))}
