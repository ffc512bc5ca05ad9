"""What `export` prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from .common import draft_lengths, pairs

if TYPE_CHECKING:
    from ...checkpoint.pair import Pair
    from ...options import ExportOptions


def options_table(pair: Pair, options: ExportOptions, out: Path) -> Table:
    """The resolved configuration of an export."""
    target, drafter = pair.target_config, pair.drafter_config
    head = "dense" if drafter.clusters is None else f"{drafter.chosen_clusters} of {drafter.clusters} clusters"
    return pairs(
        "Export",
        [
            ("target", f"{pair.target.source}: {target.layers} layers, hidden {target.hidden_size}"),
            *[("adapter", adapter.source) for adapter in getattr(pair.target, "adapters", ())],
            ("drafter", f"{pair.drafter.source}: {drafter.layers} layers, hidden {drafter.hidden_size}, head {head}"),
            ("weights", options.recipe.name),
            ("context", f"{options.context_length} tokens"),
            ("prefill", ", ".join(map(str, options.prefill_lengths))),
            ("draft tokens", draft_lengths(options.draft_tokens, options.verify_lengths)),
            ("out", str(out)),
        ],
    )
