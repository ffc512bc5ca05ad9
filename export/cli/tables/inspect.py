"""What `inspect` prints of any bundle."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from ....runtime.bundle.inspection import Inspection
from ....runtime.bundle.names import INPUT_POS, is_cache
from .common import draft_lengths, foreign, pairs, shared_with, size, stop_tokens


def print_inspection(inspection: Inspection, console: Console) -> None:
    """What a person wants to know of a bundle before shipping it."""
    about = inspection.as_dict()
    speculative = about["speculative_decoding"]
    stock, further = speculative["draft_tokens"], speculative["further_draft_tokens"]
    drafts = "no" if stock is None else draft_lengths(stock, further)
    console.print(
        pairs(
            about["file"],
            [
                ("size", size(about["bytes"])),
                ("container", about["container_version"]),
                ("model family", about["model_family"] or "not stated"),
                ("context", _context(about)),
                ("KV cache", f"{size(about['kv_cache_bytes'])}, {', '.join(about['kv_cache_dtypes'])}"),
                ("chat template", about["chat_template_verdict"] or ("yes" if about["chat_template"] else "no")),
                ("stop tokens", stop_tokens(inspection.stop_texts())),
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
        stored += shared_with(inspection.bundle, section)
        constraints = [
            str(section.items[key]) for key in ("backend_constraint", "prefer_activation_type") if key in section.items
        ]
        sections.add_row(foreign(" ".join([section.name, *constraints])), size(section.size), stored)
    console.print(sections)
    _print_signatures(inspection, console)
    shared = Table("tensor", "shape", "dtype", title="KV read by the drafter", title_justify="left", title_style="bold")
    for name, tensor in speculative["shared_kv"].items():
        shared.add_row(foreign(name), str(tensor["shape"]), tensor["dtype"])
    console.print(shared)
    if speculative["problems"]:
        for problem in speculative["problems"]:
            console.print(foreign(f"MTP will not run: {problem}", style="red"))
    else:
        console.print("Signatures, KV signature and metadata are what LiteRT-LM needs for MTP.")


def _context(about: dict[str, Any]) -> str:
    stated = f"{about['context_length']:,} tokens" if about["context_length"] else "not stated"
    if (chosen := about["context_lengths_at_load"]) is None:
        return stated
    return f"{stated}; {chosen[0]:,} to {chosen[1]:,} can be chosen at load"


def _print_signatures(inspection: Inspection, console: Console) -> None:
    table = Table(
        "signature", "tokens", "inputs", "outputs", "ops", title="Signatures", title_justify="left", title_style="bold"
    )
    for name, model in inspection.models.items():
        for signature in model.signatures:
            positions = signature.input(INPUT_POS) or signature.input("positions")
            plain = [t.name for t in signature.inputs if not is_cache(t.name)]
            returned = [t.name for t in signature.outputs if not is_cache(t.name)]
            read, written = signature.caches(written=False), signature.caches(written=True)
            table.add_row(
                foreign(signature.name if signature.name == name else f"{name}: {signature.name}"),
                str(positions.shape[0]) if positions and positions.shape else "1",
                foreign(", ".join(plain + ([f"{len(read)} caches"] if read else []))),
                foreign(", ".join(returned + ([f"{len(written)} caches"] if written else []))),
                str(sum(signature.operators.values())),
            )
    console.print(table)
