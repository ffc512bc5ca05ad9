"""What `verify` prints."""

from __future__ import annotations

import io
from contextlib import AbstractContextManager

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ....runtime.parity.report.report import COMPARED, NOT_COMPARED, RUN, Report, Verdict, number
from ....runtime.parity.stage_runs import Progress
from .common import foreign, show_progress, size

_STYLES = {
    Verdict.NOTE: "dim",
    Verdict.PASS: "green",
    Verdict.SKIPPED: "dim",
    Verdict.NEAR_TIE: "yellow",
    Verdict.FAIL: "bold red",
}


def show_stages(console: Console) -> AbstractContextManager[Progress]:
    """Says what a verification is doing."""
    return show_progress(console, "verifying")


def print_report(report: Report, console: Console, *, brief: bool = False) -> None:
    """Every check under its stage, what there is to look at, and the verdict; `brief` is the verdict alone."""
    if not brief:
        console.print(checks_table(report))
        for stage in report.stages:
            for check in stage.checks:
                if check.where and check.verdict in (Verdict.FAIL, Verdict.NEAR_TIE, Verdict.SKIPPED):
                    line = f"{check.verdict.value} in {stage.name}, {check.name}: {check.where}"
                    console.print(foreign(line, style=_STYLES[check.verdict]), soft_wrap=True)
        console.print(coverage_table(report))
        console.print(Text(f"Coverage: {report.coverage_summary()}."), soft_wrap=True)
        about, limits = report.about, report.about["limits"]
        console.print(f"Oracle: {about['oracle']}; {size(about['oracle_bytes'])} of weights at a time.", style="dim")
        console.print(
            f"Limits: {limits['name']}; near tie: at most {limits['near_tie']:g} below the best.", style="dim"
        )
    style = _STYLES[Verdict.FAIL if not report.passed else Verdict.NEAR_TIE if report.near_ties else Verdict.PASS]
    console.print(foreign(report.summary(), style=style), soft_wrap=True)


def print_summary(report: Report, console: Console) -> None:
    """A line for each stage, and the verdict."""
    table = Table(title="Parity with transformers", show_header=False, title_justify="left", title_style="bold")
    for stage in report.stages:
        checks = [check for check in stage.checks if check.verdict is not Verdict.NOTE]
        ties = sum(check.near_ties for check in checks)
        verdict = stage.verdict.value + (f" ({ties})" if ties else "")
        table.add_row(stage.name, f"{len(checks)} checks", Text(verdict, style=_STYLES[stage.verdict]))
    console.print(table)
    print_report(report, console, brief=True)


def report_text(report: Report) -> str:
    """What `print_report` prints, as plain text."""
    console = Console(file=io.StringIO(), width=120)
    with console.capture() as captured:
        print_report(report, console)
    return captured.get()


def checks_table(report: Report) -> Table:
    """One row a check, under its stage."""
    table = Table("check", "value", "limit", "verdict", title="Parity", title_justify="left", box=box.SIMPLE_HEAD)
    for stage in report.stages:
        table.add_row(Text(stage.name, style="bold"), "", "", Text(stage.verdict.value, style=_STYLES[stage.verdict]))
        for check in stage.checks:
            limit = "" if check.limit is None else f"{'≥' if check.at_least else '≤'} {number(check.limit)}"
            verdict = check.verdict.value + (f" ({check.near_ties})" if check.near_ties else "")
            shown = [foreign(f"  {check.name}"), Text(number(check.value)), Text(limit)]
            table.add_row(*shown, Text(verdict, style=_STYLES[check.verdict]))
    return table


def coverage_table(report: Report) -> Table:
    """Bytes of each section by how they were covered."""
    table = Table("section", title="Coverage", title_justify="left", box=box.SIMPLE_HEAD)
    for how in (COMPARED, RUN, NOT_COMPARED):
        table.add_column(how, justify="right")
    for section in dict.fromkeys(entry.section for entry in report.coverage):
        sums = [
            sum(entry.bytes for entry in report.coverage if (entry.section, entry.how) == (section, how))
            for how in (COMPARED, RUN, NOT_COMPARED)
        ]
        table.add_row(section, *(size(count) if count else "" for count in sums))
    return table
