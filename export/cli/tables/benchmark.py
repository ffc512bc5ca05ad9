"""What `benchmark` prints: step costs, speed by draft length, and what follows from what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ....runtime.benchmark import BenchmarkReport, LengthReport, Spread, StepCosts

_QUIETER = "more prompts (--prompts), more --repetitions or a quieter machine would tell"


def print_benchmark(report: BenchmarkReport, console: Console) -> None:
    """Everything, and the advice last."""
    console.print(_steps(report.costs))
    table = Table(
        "drafts", "measured", "range", "expected", "own verify", "per round", "even at",
        title="Speed against plain decoding", title_justify="left", title_style="bold",
    )  # fmt: skip
    for row in report.lengths:
        even = "never" if row.break_even is None else f"{row.break_even:.0%}"
        table.add_row(
            str(row.draft_tokens), f"{row.measured.median:.2f}x",
            f"{row.measured.lowest:.2f}-{row.measured.highest:.2f}",
            f"{row.expected:.2f}x", f"{row.exported:.2f}x", f"{row.tokens_per_round:.2f}", even,
        )  # fmt: skip
    console.print(table)
    count = len(report.plain_speed.values)
    console.print(
        f"measured: median of {count} repetition{'s' if count > 1 else ''}, each against plain decoding in the same"
        " one, with this bundle's verify signatures; expected: from step costs and acceptance; own verify: the same if"
        " the bundle were exported with a verify of just that length; per round: tokens; even at: the acceptance at"
        " which own verify would be as fast as plain decoding.",
        style="dim",
    )
    speed = report.plain_speed
    console.print(
        f"Plain decoding: {speed.median:.1f} tokens a second ({speed.lowest:.1f} to {speed.highest:.1f}). Accepted"
        f" with the longest draft: {report.longest.acceptance_rate or 0:.1%}."
    )
    first, *others = advice(report)
    console.print(Text(first, style="bold"))
    for line in others:
        console.print(line, highlight=False)


def advice(report: BenchmarkReport) -> list[str]:
    """What follows from the measured speed-ups, the verdict first."""
    best, lines = report.best, []
    speed = f"{best.measured.median:.2f}x with {_drafts(best)} ({_range(best.measured)})"
    if report.verdict == "does not pay":
        return [f"MTP does not pay here: at best {speed}. Decode without it, or draft better."]
    if report.verdict == "unclear":
        return [f"Noise decides whether MTP pays here: {speed} reaches to both sides of 1; {_QUIETER}."]
    lines.append(f"MTP pays here: export with --num-draft-tokens {best.draft_tokens}. Measured: {speed}.")
    if report.rivals:
        others = ", ".join(str(other.draft_tokens) for other in report.rivals)
        lines.append(f"Noise decides between {best.draft_tokens} and {others}, whose ranges meet; {_QUIETER}.")
    if len(best.measured.values) == 1:
        lines.append("One repetition shows no spread; give --repetitions 3 or more.")
    if best is report.lengths[-1]:
        lines.append("The longest draft in the bundle is the best: a longer one (--verify-lengths) may be better.")
    if report.costs.tile_step:
        short, long, times = report.costs.tile_step
        lines.append(
            f"A verify of {long} tokens costs {times:.2f} times one of {short}: kernels take four rows at a time"
            " on ARM64 and AVX2, so the step comes after three drafts."
        )
    promising = max(report.lengths, key=lambda row: row.exported)
    if promising.verify_tokens != promising.draft_tokens + 1 and promising.exported > best.measured.highest:
        lines.append(
            f"{_drafts(promising)} ran with a verify of {promising.verify_tokens} tokens; {promising.exported:.2f}x is"
            f" expected with its own: export with --verify-lengths {promising.draft_tokens} to measure it."
        )
    return lines


def _drafts(row: LengthReport) -> str:
    return f"{row.draft_tokens} draft token{'s' if row.draft_tokens > 1 else ''}"


def _range(spread: Spread) -> str:
    return f"{spread.lowest:.2f} to {spread.highest:.2f}"


def _steps(costs: StepCosts) -> Table:
    table = Table("step", "ms", "decodes", title="One step", title_justify="left", title_style="bold")
    table.add_row("decode", f"{costs.decode * 1e3:.2f}", "1")
    for tokens, seconds in sorted(costs.passes.items()):
        if tokens > 1:
            table.add_row(f"verify of {tokens} tokens", f"{seconds * 1e3:.2f}", f"{seconds / costs.decode:.2f}")
    table.add_row("draft step", f"{costs.draft * 1e3:.2f}", f"{costs.draft / costs.decode:.2f}")
    return table
