"""The price list as JSON, and as one HTML page with plots that needs no network."""

from __future__ import annotations

import html
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from ...runtime.parity.report.drawing import svg
from ...runtime.units import size
from .estimates import Ratio
from .measure import BASE, Price

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .suggest import Suggestion

_PACKAGES = ("gemma-mtp-export", "ai-edge-litert", "ai-edge-quantizer", "litert-lm", "transformers", "torch")
COLUMNS = (
    "recipe", "bundle", "perplexity", "KL, nats", "top-1", "accepted", "lost", "float drafter", "tokens/pass",
    "decode, ms", "verify, ms", "draft, ms",
)  # fmt: skip


def as_dict(prices: Sequence[Price], about: dict[str, Any], suggestion: Suggestion | None = None) -> dict[str, Any]:
    """Everything as plain JSON types."""
    base = _base(prices)
    entries = []
    for price in prices:
        lost = price.acceptance_loss(base) if base else None
        of_loss = (lost.value, lost.error) if lost else (None, None)
        entries.append(price.as_dict() | dict(zip(("acceptance_loss", "acceptance_loss_error"), of_loss, strict=True)))
    searched = {"suggestion": suggestion.as_dict()} if suggestion else {}
    return {"about": about, "packages": {name: version(name) for name in _PACKAGES}, "recipes": entries, **searched}


def cells(price: Price, prices: Sequence[Price]) -> list[str]:
    """A row of COLUMNS; what acceptance is lost is against fp32, where that is among `prices`."""
    base = _base(prices)
    float_drafter = price.acceptance_float_drafter
    shares = [
        price.acceptance.estimate,
        price.acceptance_loss(base) if base and base is not price else None,
        float_drafter.estimate if float_drafter else None,
    ]
    times = [f"{1e3 * price.seconds[step]:.2f}" for step in ("decode", "verify", "draft")]
    tokens = "" if price.tokens_per_pass is None else f"{price.tokens_per_pass:.2f}"
    kl = price.kl.estimate
    text = [f"{price.perplexity:.3f}", kl.shown(4) if kl else "", f"{price.top1:.1%}"]
    accepted = [share.shown(1, percent=True) if share else "" for share in shares]
    return [price.recipe, size(price.bundle_bytes), *text, *accepted, tokens, *times]


def render(prices: Sequence[Price], about: dict[str, Any]) -> str:
    """The page."""
    names = list(dict.fromkeys(name for price in prices for name in price.components))
    pieces = [size(price.components.get(name, 0)) for name in names for price in prices]
    rows = [[name, *pieces[i * len(prices) : (i + 1) * len(prices)]] for i, name in enumerate(names)]
    plots = [svg(lambda axes: _scatter(axes, prices)), svg(lambda axes: _acceptance(axes, prices))]
    facts = ", ".join(f"{name} {value}" for name, value in about.items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>What recipes cost</title><style>'
        "body{font:15px/1.45 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}"
        "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .6rem;border-bottom:1px solid #dadce0;"
        "text-align:right}td:first-child,th:first-child{text-align:left}svg{max-width:48%;height:auto}</style></head>"
        f"<body><h1>What recipes cost</h1><p>{html.escape(facts)}</p>"
        f"{_table(COLUMNS, [cells(price, prices) for price in prices])}{''.join(plots)}"
        f"<h2>Bytes by component</h2>{_table(['component', *(price.recipe for price in prices)], rows)}</body></html>\n"
    )


def _base(prices: Sequence[Price]) -> Price | None:
    return next((price for price in prices if price.recipe == BASE), None)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{line(head, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


def _scatter(axes: Axes, prices: Sequence[Price]) -> None:
    for price in prices:
        place = price.bundle_bytes / 1e6, max(_value(price.kl), 1e-9)
        axes.scatter(*place, color="#1a73e8")
        axes.annotate(price.recipe, place, xytext=(4, 4), textcoords="offset points")
    axes.set_yscale("log")
    axes.set_xlabel("bundle, MB")
    axes.set_ylabel("KL from transformers, nats")


def _acceptance(axes: Axes, prices: Sequence[Price]) -> None:
    axes.bar(
        [price.recipe for price in prices],
        [_value(price.acceptance) for price in prices],
        yerr=[_error(price.acceptance) for price in prices],
        color="#1a73e8",
    )
    axes.set_ylim(0, 1)
    axes.set_ylabel("drafts accepted")


def _value(counts: Ratio) -> float:
    return counts.estimate.value if counts.estimate else 0.0


def _error(counts: Ratio) -> float:
    return (counts.estimate.error or 0.0) if counts.estimate else 0.0
