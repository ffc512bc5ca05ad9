"""What `generate` and `benchmark` print of their numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ....runtime.benchmark import BenchmarkReport
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


def print_benchmark(report: BenchmarkReport, console: Console) -> None:
    """Step costs, speed per draft length, and what to export."""
    costs = report.costs
    steps = Table("step", "ms", "decodes", title="One step", title_justify="left", title_style="bold")
    steps.add_row("decode", f"{costs.decode * 1e3:.2f}", "1")
    for tokens, seconds in sorted(costs.passes.items()):
        if tokens > 1:
            steps.add_row(f"verify of {tokens} tokens", f"{seconds * 1e3:.2f}", f"{seconds / costs.decode:.2f}")
    steps.add_row("draft step", f"{costs.draft * 1e3:.2f}", f"{costs.draft / costs.decode:.2f}")
    console.print(steps)
    table = Table(
        "draft tokens", "tokens a round", "expected", "measured", "own verify", "break-even acceptance",
        title="Speed against plain decoding", title_justify="left", title_style="bold",
    )  # fmt: skip
    for row in report.lengths:
        even = "never" if row.break_even is None else f"{row.break_even:.0%}"
        table.add_row(
            str(row.draft_tokens), f"{row.tokens_per_round:.2f}", f"{row.expected:.2f}x", f"{row.measured:.2f}x",
            f"{row.exported:.2f}x", even,
        )  # fmt: skip
    console.print(table)
    console.print(
        "expected: from step costs and acceptance, with this bundle's verify signatures; own verify: the same if the"
        " bundle were exported with a verify of just that length.",
        style="dim",
    )
    rate, plain = report.longest.acceptance_rate, report.plain.tokens_per_second
    console.print(
        f"Plain decoding: {plain or 0:.1f} tokens a second. Accepted with the longest draft: {rate or 0:.1%}."
    )
    best = report.best
    if best is None:
        console.print("MTP does not pay here: decode without it, or draft better.", style="bold")
    else:
        console.print(
            f"MTP pays here: export with --num-draft-tokens {best.draft_tokens} ({best.exported:.2f}x expected).",
            style="bold",
        )
        if best is report.lengths[-1]:
            console.print("The longest draft in the bundle is the best: a longer one (--verify-lengths) may be better.")
