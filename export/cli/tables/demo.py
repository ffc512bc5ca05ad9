"""What `demo` prints of its texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from .common import pairs

if TYPE_CHECKING:
    from ...demo import Comparison


def print_comparison(comparison: Comparison, console: Console) -> None:
    """The two texts of the demo and what speculative decoding did."""
    for title, run in (("off", comparison.plain), ("on", comparison.speculative)):
        console.rule(f"LiteRT-LM, speculative decoding {title}", align="left")
        console.print(Text(comparison.prompt + "\n", style="dim") + Text(run.texts[0]))
    console.rule()
    texts = "equal" if comparison.equal else "DIFFERENT"
    if comparison.overshoot:
        texts += f" to the context's end, where MTP went {comparison.overshoot} characters on"
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
