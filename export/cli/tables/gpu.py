"""What `inspect --backend gpu` and `fp16-range` print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .common import foreign

if TYPE_CHECKING:
    from ....runtime.gpu.report import GpuReport
    from ....runtime.gpu.trial import Trial
    from ....runtime.parity.fp16_range import RangeReport

_TAKEN = {True: "yes", False: "no", None: "not tried"}


def print_gpu_report(report: GpuReport, console: Console) -> None:
    """Graph by graph, then why not, then what was left out of the trial loads."""
    trials = {(trial.model, trial.signature): trial for trial in report.trials}
    table = Table("signature", "ops", "check", "trial load", title="GPU", title_justify="left", title_style="bold")
    for graph in report.graphs:
        trial = trials.get((graph.model, graph.signature))
        name = graph.signature if graph.signature == graph.model else f"{graph.model}: {graph.signature}"
        table.add_row(foreign(name), str(graph.operators), _TAKEN[graph.taken], foreign(_shown(trial)))
    for name in report.on_cpu:
        table.add_row(foreign(name), "", "runs on the CPU", "")
    console.print(table)
    for graph in report.graphs:
        for finding in graph.findings:
            console.print(foreign(f"{graph.signature}: {finding}", style="red"))
    devices = dict.fromkeys(trial.device for trial in report.trials if trial.device)
    if devices:
        console.print(f"Trial loads on: {'; '.join(devices)}.")
    left_out = sorted({name for trial in report.trials for name in trial.left_out})
    if left_out:
        console.print(
            foreign(
                f"Left out there: {', '.join(left_out)}, on which ai-edge-litert's accelerator crashes. Graphs were"
                " loaded, not run. Only LiteRT-LM itself shows the rest."
            )
        )
    if report.taken:
        console.print("Every graph is one that LiteRT-LM's GPU backend is known to take whole.")
    else:
        console.print(Text("LiteRT-LM's GPU backend is not known to run this bundle.", style="red"))


def _shown(trial: Trial | None) -> str:
    if trial is None:
        return ""
    return _TAKEN[trial.taken] if trial.taken else f"{_TAKEN[trial.taken]}: {trial.reason}"


def print_range(report: RangeReport, console: Console) -> None:
    """Layer by layer, then what follows from it."""
    title = f"Absolute activations; float16 ends at {report.limit:.0f}"
    table = Table("layer", "largest", "at", "loss", "", title=title, title_justify="left", title_style="bold")
    for row in report.layers:
        verdict = Text(row.verdict, style="" if row.verdict == "ok" else "red")
        table.add_row(f"{row.model} {row.layer}", f"{row.largest:.4g}", row.where, f"{row.loss:.2%}", verdict)
    console.print(table)
    console.print(f"Rounded to float16, {report.changed} of {report.tokens} next tokens differ.")
    console.print(f"Export with --activations {report.activations}.", style="bold")
