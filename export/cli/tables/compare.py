"""What `compare` prints."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...compare.measure import Price
from ...compare.page import COLUMNS, cells
from ...compare.suggest import START, Bounds, Suggestion
from .common import size


def print_prices(prices: Sequence[Price], console: Console) -> None:
    """A column for each recipe: twelve measures side by side would not fit a terminal."""
    head, *rows = zip(COLUMNS, *(cells(price, prices) for price in prices), strict=True)
    table = Table(*head, title="What recipes cost", title_justify="left", title_style="bold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def print_suggestion(suggestion: Suggestion, bounds: Bounds, console: Console) -> None:
    """What each part costs alone, the bundles that were tried, and which is it."""
    table = Table("part", "format", "KL, nats", "first drafts lost", "saved", title_justify="left", title_style="bold")
    table.title = f"What each part costs alone, against {START.name}: estimated in torch, float activations"
    chosen = suggestion.tried[-1][0].trials if suggestion.tried else ()
    for trial in suggestion.trials:
        row = (trial.part.name, trial.stored_as.name, f"{trial.kl:.4f}", f"{trial.lost:.1%}", size(trial.saved))
        table.add_row(*row, style="bold" if trial in chosen and suggestion.found else "")
    console.print(table)
    tried = Table("measured on a bundle", "KL, nats", "accepted drafts lost", "weights", title_justify="left")
    for mix, price in suggestion.tried:
        kl, lost = price.kl.estimate, price.acceptance_loss(suggestion.base)
        tried.add_row(
            "; ".join(f"{trial.part.name} {trial.stored_as.name}" for trial in mix.trials)
            or f"{START.name} throughout",
            kl.shown(4) if kl else "",
            lost.shown(1, percent=True) if lost else "",
            size(sum(price.components.values())),
        )
    console.print(tried)
    limits = f"{bounds.kl:g} nats and {bounds.acceptance_loss:.1%} of the accepted drafts"
    if suggestion.found:
        console.print(Text(f"The last one is the smallest mix found within {limits}; all else is {START.name}."))
    else:
        console.print(Text(f"Nothing that was tried is within {limits}: allow more, or give more prompts."))
