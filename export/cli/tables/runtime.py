"""What `generate` prints beside its answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ....runtime.decoding.generation import Generation
    from ....runtime.decoding.statistics import Statistics

_LONGEST_PROMPT = 400


def print_prompt(text: str, console: Console) -> None:
    """A prompt before its answer; the beginning of a long one."""
    shown = text if len(text) <= _LONGEST_PROMPT else f"{text[:_LONGEST_PROMPT]}... ({len(text)} characters)"
    for line in shown.strip().splitlines():
        console.print(Text(f"> {line}", style="dim"), soft_wrap=True)


def print_ending(answer: Generation, console: Console) -> None:
    """Why an answer ended where it did, unless the model ended it."""
    reasons = {
        "context": "the context is full",
        "max_tokens": f"stopped after {len(answer.tokens)} tokens; --max-tokens N for more",
    }
    if reason := reasons.get(answer.finish_reason or ""):
        console.print(Text(f"({reason})"), soft_wrap=True)


def print_statistics(statistics: Statistics, console: Console) -> None:
    """What a run did and where the time went."""
    about = statistics.as_dict()
    table = Table(show_header=False)
    reused = f", {about['reused_tokens']} of them in the cache" if about["reused_tokens"] else ""
    table.add_row("prompt", f"{about['prompt_tokens']} tokens{reused}")
    speed = about["tokens_per_second"]
    table.add_row("answer", f"{about['generated_tokens']} tokens" + (f", {speed:.1f} a second" if speed else ""))
    if about["drafted"]:
        by_position = ", ".join(f"{share:.2f}" for share in about["acceptance_by_position"])
        table.add_row("accepted", f"{about['accepted']} of {about['drafted']} drafted ({about['acceptance_rate']:.1%})")
        table.add_row("accepted up to position", by_position)
    if about["tokens_per_target_pass"]:
        table.add_row("tokens per target pass", f"{about['tokens_per_target_pass']:.2f} (1 without MTP)")
    seconds = dict(about["seconds"])
    total = seconds.pop("total")
    spent = [f"{kind} {time:.2f} s" for kind, time in seconds.items() if time >= 0.005]
    table.add_row("time", f"{total:.2f} s: {', '.join(spent)}")
    console.print(table)
