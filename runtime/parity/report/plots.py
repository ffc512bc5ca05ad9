"""The report's plots as SVG, by matplotlib: error per layer, logits, acceptance by draft position and by prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .drawing import svg
from .report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BUNDLE, _ORACLE, _LIMIT = "#1a73e8", "#9aa0a6", "#d93025"


def report_plots(report: Report) -> dict[str, str]:
    """Title and SVG of every plot that `report` has the numbers for."""
    series = {name: values for stage in report.stages for name, values in stage.plots.items()}
    limits = report.about["limits"]
    drawn: dict[str, str] = {}
    if "error_by_layer" in series:
        drawn["Error of the KV cache by layer"] = svg(lambda axes: _by_layer(axes, series["error_by_layer"], limits))
    if "logits" in series:
        drawn["Logits: bundle against oracle"] = svg(lambda axes: _scatter(axes, series["logits"]))
    if "acceptance_by_position" in series:
        drawn["Acceptance by draft position"] = svg(
            lambda axes: _bars(axes, series["acceptance_by_position"], "position in the draft")
        )
        by_prompt = series["acceptance_by_prompt"]
        shares = {side: [entry[side] for entry in by_prompt] for side in ("bundle", "oracle")}
        drawn["Acceptance by prompt"] = svg(lambda axes: _bars(axes, shares, "prompt"))
    return drawn


def _by_layer(axes: Axes, errors: dict[str, list[float]], limits: dict[str, Any]) -> None:
    for (kind, values), marker in zip(errors.items(), ("o", "s"), strict=True):
        axes.plot(range(len(values)), values, marker=marker, markersize=4, label=kind)
    axes.axhline(limits["cache_relative"], color=_LIMIT, linestyle="--", linewidth=1, label="limit")
    if any(value > 0 for values in errors.values() for value in values):
        axes.set_yscale("log")
    axes.set_xlabel("layer")
    axes.set_ylabel("norm of the error / norm")
    axes.locator_params(axis="x", integer=True)
    axes.legend(frameon=False)


def _scatter(axes: Axes, logits: dict[str, list[float]]) -> None:
    theirs, ours = logits["oracle"], logits["bundle"]
    ends = [min(theirs), max(theirs)]
    axes.plot(ends, ends, color=_ORACLE, linewidth=1)
    axes.scatter(theirs, ours, s=4, alpha=0.35, color=_BUNDLE, linewidths=0)
    axes.set_xlabel("oracle")
    axes.set_ylabel("bundle")


def _bars(axes: Axes, shares: dict[str, list[float]], what: str) -> None:
    width = 0.4
    places = range(1, len(shares["bundle"]) + 1)
    axes.bar([place - width / 2 for place in places], shares["bundle"], width, color=_BUNDLE, label="bundle")
    axes.bar([place + width / 2 for place in places], shares["oracle"], width, color=_ORACLE, label="oracle")
    axes.set_ylim(0, 1)
    axes.set_xlabel(what)
    axes.set_ylabel("accepted")
    axes.locator_params(axis="x", integer=True)
    axes.legend(frameon=False, ncols=2)
