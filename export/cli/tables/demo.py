"""What `demo` prints of its texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from .common import pairs

if TYPE_CHECKING:
    from ...demo import Comparison


def print_comparison(comparison: Comparison, console: Console) -> None:
    """The chat, and what speculative decoding did."""
    for title, chat in (("off", comparison.plain), ("on", comparison.speculative)):
        console.rule(f"LiteRT-LM, speculative decoding {title}", align="left")
        for asked, turn in zip(comparison.asked, chat.turns, strict=True):
            console.print(Text(f"user: {asked}", style="dim"))
            console.print(Text(turn.text))
    console.rule()
    texts = "equal" if comparison.equal else "DIFFERENT"
    console.print(
        pairs(
            "Result",
            [
                ("texts", texts),
                ("drafted per round", str(comparison.draft_tokens)),
                ("acceptance rate", f"{comparison.acceptance_rate:.1%} of drafted tokens"),
                ("tokens per target pass", f"{comparison.tokens_per_pass:.2f} (1 without MTP)"),
            ],
        )
    )
