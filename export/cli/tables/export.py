"""What `export` prints."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...progress import peak_memory
from .common import draft_lengths, pairs, shared_with, size, stop_tokens

if TYPE_CHECKING:
    from ....runtime.bundle.inspection import Inspection
    from ...checkpoint.pair import Pair
    from ...options import ExportOptions
    from ...progress import Reporter

# Of a model's largest kind of weights, what is shown beside it.
_COUNTS = 0.01


def options_table(pair: Pair, options: ExportOptions, out: Path) -> Table:
    """The resolved configuration of an export."""
    target, drafter = pair.target_config, pair.drafter_config
    head = "dense" if drafter.clusters is None else f"{drafter.chosen_clusters} of {drafter.clusters} clusters"
    return pairs(
        "Export",
        [
            ("target", f"{pair.target.source}: {target.layers} layers, hidden {target.hidden_size}"),
            *[("adapter", adapter.source) for adapter in getattr(pair.target, "adapters", ())],
            ("drafter", f"{pair.drafter.source}: {drafter.layers} layers, hidden {drafter.hidden_size}, head {head}"),
            ("weights", options.recipe.name),
            ("context", _context(options)),
            ("KV caches", options.kv_cache),
            ("prefill", ", ".join(map(str, options.prefill_lengths))),
            ("draft tokens", draft_lengths(options.draft_tokens, options.verify_lengths)),
            ("out", str(out)),
        ],
    )


def _context(options: ExportOptions) -> str:
    if options.fixed_context:
        return f"{options.context_length:,} tokens"
    return f"up to {options.context_length:,} tokens, {options.advertised_context:,} where nobody chooses"


def cost_table(reporter: Reporter) -> Table:
    """What an export took: the time of each stage, some of them side by side, and the memory."""
    rows = [(title, f"{seconds:.1f} s") for title, seconds in reporter.seconds.items()]
    own, children = peak_memory()
    return pairs(
        "Took",
        [
            *rows,
            ("in all", f"{reporter.elapsed:.1f} s"),
            ("peak memory", f"{size(own)}, the largest tracing process {size(children)} (resident, by the kernel)"),
        ],
    )


def print_export_summary(
    inspection: Inspection, commands: Sequence[Sequence[str]], console: Console, template: str | None = None
) -> None:
    """What became of an export: sizes, where answers end, the chat template's verdict, and what to type next.

    Args:
        inspection: the finished bundle.
        commands: arguments of what to type next, see `next_commands`.
        console: where to print.
        template: what is known of the chat template, in one line.
    """
    bundle = inspection.bundle
    table = Table("part", "size", "weights", title="Bundle", title_justify="left", title_style="bold", show_footer=True)
    table.columns[0].footer, table.columns[1].footer = "whole bundle", size(bundle.path.stat().st_size)
    for section in bundle.sections:
        name = section.model_type or section.kind
        model = inspection.models.get(section.model_type or "")
        stored = (_weights(model.constant_bytes) if model else "") + shared_with(bundle, section)
        table.add_row("tokenizer" if "Tokenizer" in name else name, size(section.size), stored)
    console.print(table)
    rows = [("stop tokens", stop_tokens(inspection.stop_texts()))]
    if template is not None:
        rows.append(("chat template", template))
    console.print(pairs("Text", rows))
    console.print(Text("Next", style="bold"))
    for arguments in commands:
        console.print(Text(f"  {shlex.join(arguments)}"), soft_wrap=True)


def _weights(by_dtype: dict[str, int]) -> str:
    """Bytes by dtype, most first, without the constants that hardly count."""
    ordered = sorted(by_dtype.items(), key=lambda entry: -entry[1])
    return ", ".join(f"{dtype} {size(count)}" for dtype, count in ordered if count >= _COUNTS * ordered[0][1])


def next_commands(out: Path, target: str, drafter: str, options: Sequence[str] = ()) -> list[list[str]]:
    """What to type after an export to `out`; `options` are those of the export that `verify` needs, too."""
    program = "gemma-mtp-export"
    return [
        [program, "inspect", str(out)],
        [program, "generate", str(out), "--prompt", "Why is the sky blue?"],
        [program, "verify", str(out), target, drafter, *options],
        [program, "benchmark", str(out)],
    ]
