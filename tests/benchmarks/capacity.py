"""What a pass costs, and what it does not pay for: `python -m tests.benchmarks.capacity`.

Decode, verify and draft step over six things that an exporter or an app chooses: how long the context can be, how much
of it is used, how many tokens are drafted, how caches are stored, for which backends, and the context at load. What is
compared runs in turns in one run; each figure is the best of the repetitions, with its ratio to the first of its kind.
Prints a table for each, and one JSON object last; `--plot` draws them.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from gemma_mtp.export.graphs.tracing.skeleton_cache import SkeletonCache
from gemma_mtp.export.models.kv_cache import CACHE_DTYPES, cache_length
from gemma_mtp.runtime.bundle.context.placeholder import placeholder_length
from tests.benchmarks.passes import WINDOW, Passes, Shape, build
from tests.benchmarks.widths import E2B, MODERATE

_PACKAGES = ("ai-edge-litert", "litert-torch", "torch")
_LONGEST_DRAFT = 8
_SHAPES = {"e2b": E2B, "moderate": MODERATE}
# Milliseconds by pass and variant.
Times = dict[str, dict[str, float]]
Variants = dict[str, dict[str, Callable[[], None]]]


@dataclass(frozen=True)
class Setting:
    """Where models lie, and what is common to all that is measured."""

    base: Shape
    folder: Path
    skeletons: SkeletonCache
    threads: int

    def passes(self, *, context: int = 0, **changed: Any) -> Passes:
        """Those of the base shape with fields `changed`, at a `context` chosen at load."""
        shape = replace(self.base, **changed)
        return Passes(build(shape, self.folder, self.skeletons), self.threads, shape.slots, context)


def by_capacity(setting: Setting, contexts: list[int], filled: int) -> Variants:
    """Caches for ever longer contexts, with as much in them."""
    return {f"{context:,}": setting.passes(slots=_slots(context)).filled(filled) for context in contexts}


def by_fill(setting: Setting, context: int, filled: int) -> Variants:
    """The longest context, ever more of it in use."""
    passes = setting.passes(slots=_slots(context))
    steps = [filled, *(part for part in (context // 16, context // 4, context - 16) if part > filled)]
    return {f"{count:,}": passes.filled(count) for count in steps}


def by_draft_length(setting: Setting, context: int, filled: int) -> Variants:
    """Verify passes of 2 to 9 tokens, which a draft of one less takes."""
    passes = setting.passes(slots=_slots(context), draft_tokens=tuple(range(1, _LONGEST_DRAFT + 1))).filled(filled)
    steps = {"no draft": passes["decode"]} | {str(n): passes[f"verify {n + 1}"] for n in range(1, _LONGEST_DRAFT + 1)}
    return {drafted: {"pass": run} for drafted, run in steps.items()}


def by_cache_format(setting: Setting, context: int, filled: int) -> Variants:
    """Caches in every format."""
    return {stored: setting.passes(slots=_slots(context), kv_cache=stored).filled(filled) for stored in CACHE_DTYPES}


def by_backends(setting: Setting, context: int, filled: int) -> Variants:
    """Graphs for CPU and GPU, and for the CPU alone."""
    choices = {"CPU and GPU": False, "CPU alone": True}
    slots = _slots(context)
    return {name: setting.passes(slots=slots, cpu_only=alone).filled(filled) for name, alone in choices.items()}


def by_context_at_load(setting: Setting, contexts: list[int], chosen: int, filled: int) -> Variants:
    """One export whose context is chosen when it is loaded, beside one that has no more than `chosen` to give."""
    placeholder = placeholder_length(max(contexts))
    variants = {f"fixed {chosen:,}": setting.passes(slots=_slots(chosen)).filled(filled)}
    for context in (chosen, *(context for context in contexts if context > chosen)):
        name = f"{context:,} of {max(contexts):,}"
        variants[name] = setting.passes(slots=placeholder, context=context).filled(filled)
    return variants


def _slots(context: int) -> int:
    return cache_length(context, _LONGEST_DRAFT)


def measure(variants: Variants, repetitions: int) -> Times:
    """The best time of every pass of every variant, in milliseconds; variants take turns."""
    best: Times = {}
    for _ in range(repetitions):
        for variant, passes in variants.items():
            for kind, run in passes.items():
                begun = time.perf_counter()
                run()
                milliseconds = (time.perf_counter() - begun) * 1e3
                times = best.setdefault(kind, {})
                times[variant] = min(times.get(variant, milliseconds), milliseconds)
    return best


def show(title: str, times: Times, console: Console) -> None:
    """A row for each variant: milliseconds of its passes, and their ratios to the first variant's."""
    table = Table("", *times, title=title)
    for variant in next(iter(times.values())):
        cells = [f"{of[variant]:.2f} (x{of[variant] / next(iter(of.values())):.2f})" for of in times.values()]
        table.add_row(variant, *cells)
    console.print(table)


def draw(found: dict[str, Times], path: Path) -> None:
    """All tables as bars, ratios to the first variant, into one picture (SVG, PNG or PDF by its name)."""
    figure = Figure(figsize=(9, 3 * len(found)), layout="constrained")
    for axes, (title, times) in zip(figure.subplots(len(found), squeeze=False)[:, 0], found.items(), strict=True):
        variants = list(next(iter(times.values())))
        for place, (kind, of) in enumerate(times.items()):
            ratios = [of[variant] / of[variants[0]] for variant in variants]
            left = [index + 0.8 * place / len(times) for index in range(len(variants))]
            bars = axes.bar(left, ratios, 0.8 / len(times), align="edge", label=kind)
            axes.bar_label(bars, [f"{of[variant]:.1f}" for variant in variants], fontsize=7)
        axes.set_xticks([index + 0.4 for index in range(len(variants))], variants)
        axes.set_title(f"{title} (bars: ratio to the first; above: ms)", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, frameon=False)
    figure.savefig(path)


def about() -> dict[str, Any]:
    """Machine, versions and date."""
    return {
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {package: version(package) for package in _PACKAGES},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@click.command(help=__doc__)
@click.option("--contexts", default="512,4096,32768", show_default=True, help="Contexts that caches are made for.")
@click.option("--filled", default=500, show_default=True, help="Slots in use, where that is not what changes.")
@click.option("--chosen", default=1024, show_default=True, help="What is chosen at load of the longest of them.")
@click.option("--shape", type=click.Choice(list(_SHAPES)), default="e2b", show_default=True)
@click.option("--window", default=WINDOW, show_default=True, help="Slots that sliding layers see.")
@click.option("--layers", default=10, show_default=True, help="Of the target; its share of them shares KV.")
@click.option("--repetitions", default=30, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--only", default="", help="Of the six, those with a name that contains this.")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Keep models (a few GB) and graphs here for further runs."
)
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the tables into this file (.svg, .png, .pdf).")
def main(
    contexts: str,
    filled: int,
    chosen: int,
    shape: str,
    window: int,
    layers: int,
    repetitions: int,
    threads: int,
    only: str,
    folder: Path | None,
    plot: Path | None,
) -> None:
    console = Console()
    lengths = [int(length) for length in contexts.split(",")]
    middle, longest = lengths[len(lengths) // 2], lengths[-1]
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        whole = _SHAPES[shape]
        sharing = layers * whole.kv_shared_layers // whole.layers
        widths = replace(whole, layers=layers, kv_shared_layers=sharing)
        setting = Setting(
            Shape(_slots(middle), widths, window=window), place, SkeletonCache(place / "skeletons"), threads
        )
        parts: dict[str, Callable[[], Variants]] = {
            "capacity": lambda: by_capacity(setting, lengths, filled),
            "slots in use": lambda: by_fill(setting, longest, filled),
            "draft length": lambda: by_draft_length(setting, middle, filled),
            "cache format": lambda: by_cache_format(setting, middle, filled),
            "backends": lambda: by_backends(setting, middle, filled),
            "context at load": lambda: by_context_at_load(setting, lengths, chosen, filled),
        }
        found: dict[str, Times] = {}
        for title, variants in parts.items():
            if only in title:
                found[title] = measure(variants(), repetitions)
                show(title, found[title], console)
                gc.collect()  # Compiled models, gigabytes of them, before the next are made.
    if plot:
        draw(found, plot)
    settings = {"contexts": lengths, "filled": filled, "chosen": chosen, "shape": shape, "window": window}
    settings |= {"layers": layers, "repetitions": repetitions, "threads": threads}
    print(json.dumps({"about": about(), "settings": settings, "milliseconds": found}))


if __name__ == "__main__":
    main()
