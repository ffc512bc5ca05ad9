"""The report as one HTML page that needs no network: verdict, plots, every check, and what was compared."""

from __future__ import annotations

from pathlib import Path

import jinja2

from ...units import size
from .plots import report_plots
from .report import Report, number

_TEMPLATE = Path(__file__).with_name("report.html.jinja")


def render_html(report: Report) -> str:
    """The page of `report`."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"number": number, "size": size}
    template = environment.from_string(_TEMPLATE.read_text("utf-8"))
    return template.render(report=report, plots=report_plots(report))
