"""What the commands print."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..runtime.inspection import Inspection

if TYPE_CHECKING:
    from .demo import Comparison
    from .options import ExportOptions
    from .pipeline import Pair


def size(count: float) -> str:
    """Bytes for people: 818.4 MB."""
    for unit in ("B", "kB", "MB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def _pairs(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    table = Table(title=title, show_header=False, title_justify="left", title_style="bold")
    for name, value in rows:
        table.add_row(name, Text(value, overflow="fold"))
    return table


def options_table(pair: Pair, options: ExportOptions, out: Path) -> Table:
    """The resolved configuration of an export."""
    target, drafter = pair.target_config, pair.drafter_config
    head = "dense" if drafter.clusters is None else f"{drafter.chosen_clusters} of {drafter.clusters} clusters"
    return _pairs(
        "Export",
        [
            ("target", f"{pair.target.source}: {target.layers} layers, hidden {target.hidden_size}"),
            ("drafter", f"{pair.drafter.source}: {drafter.layers} layers, hidden {drafter.hidden_size}, head {head}"),
            ("weights", options.recipe.name),
            ("context", f"{options.context_length} tokens"),
            ("prefill", ", ".join(map(str, options.prefill_lengths))),
            ("draft tokens", _draft_lengths(options.draft_tokens, options.verify_lengths)),
            ("out", str(out)),
        ],
    )


def _draft_lengths(stock: int, further: Iterable[int]) -> str:
    text = f"{stock} per round"
    return f"{text}; the Python runtime also {', '.join(map(str, further))}" if further else text


def print_inspection(inspection: Inspection, console: Console) -> None:
    """What a person wants to know of a bundle before shipping it."""
    about = inspection.as_dict()
    speculative = about["speculative_decoding"]
    stock, further = speculative["draft_tokens"], speculative["further_draft_tokens"]
    drafts = "no" if stock is None else _draft_lengths(stock, further)
    console.print(
        _pairs(
            about["file"],
            [
                ("size", size(about["bytes"])),
                ("container", about["container_version"]),
                ("model family", about["model_family"] or "not stated"),
                ("context", f"{about['context_length']} tokens" if about["context_length"] else "not stated"),
                ("KV cache", size(about["kv_cache_bytes"])),
                ("chat template", "yes" if about["chat_template"] else "no"),
                ("stop tokens", ", ".join(map(str, about["stop_tokens"])) or "none"),
                ("needs runtime", about["min_runtime_version"] or "not stated"),
                ("draft tokens", drafts),
                ("drafter head", speculative["head"] or "no drafter"),
            ],
        )
    )
    sections = Table("section", "size", "weights", title="Sections", title_justify="left", title_style="bold")
    for section in inspection.bundle.sections:
        model = inspection.models.get(section.model_type or "")
        stored = ", ".join(f"{dtype} {size(count)}" for dtype, count in model.constant_bytes.items()) if model else ""
        constraints = [
            str(section.items[key]) for key in ("backend_constraint", "prefer_activation_type") if key in section.items
        ]
        sections.add_row(" ".join([section.model_type or section.kind, *constraints]), size(section.size), stored)
    console.print(sections)
    _print_signatures(inspection, console)
    shared = Table("tensor", "shape", "dtype", title="KV read by the drafter", title_justify="left", title_style="bold")
    for name, tensor in speculative["shared_kv"].items():
        shared.add_row(name, str(tensor["shape"]), tensor["dtype"])
    console.print(shared)
    if speculative["problems"]:
        for problem in speculative["problems"]:
            console.print(Text(f"MTP will not run: {problem}", style="red"))
    else:
        console.print("Signatures, KV signature and metadata are what LiteRT-LM needs for MTP.")


def _print_signatures(inspection: Inspection, console: Console) -> None:
    table = Table(
        "signature", "tokens", "inputs", "outputs", "ops", title="Signatures", title_justify="left", title_style="bold"
    )
    for name, model in inspection.models.items():
        for signature in model.signatures:
            positions = signature.input("input_pos") or signature.input("positions")
            plain = [t.name for t in signature.inputs if not t.name.startswith("kv_cache_")]
            returned = [t.name for t in signature.outputs if not t.name.startswith("kv_cache_")]
            read, written = signature.caches(written=False), signature.caches(written=True)
            table.add_row(
                signature.name if signature.name == name else f"{name}: {signature.name}",
                str(positions.shape[0]) if positions and positions.shape else "1",
                ", ".join(plain + ([f"{len(read)} caches"] if read else [])),
                ", ".join(returned + ([f"{len(written)} caches"] if written else [])),
                str(sum(signature.operators.values())),
            )
    console.print(table)


def print_comparison(comparison: Comparison, console: Console) -> None:
    """The two texts of the demo and what speculative decoding did."""
    for title, run in (("off", comparison.plain), ("on", comparison.speculative)):
        console.rule(f"LiteRT-LM, speculative decoding {title}", align="left")
        console.print(Text(comparison.prompt + "\n", style="dim") + Text(run.texts[0]))
    console.rule()
    texts = "equal" if comparison.equal else "DIFFERENT"
    if comparison.overshoot:
        texts += f" to the context's end, where MTP went {comparison.overshoot} characters on"
    console.print(
        _pairs(
            "Result",
            [
                ("texts", texts),
                ("drafted per round", str(comparison.draft_tokens)),
                ("acceptance rate", f"{comparison.acceptance_rate:.1%} of drafted tokens"),
                ("tokens per target pass", f"{comparison.tokens_per_pass:.2f} (1 without MTP)"),
            ],
        )
    )
