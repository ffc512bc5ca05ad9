"""What several tables share."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ....runtime.printable import printable
from ....runtime.units import size

if TYPE_CHECKING:
    from ....runtime.bundle.container import BundleFile, Section

__all__ = ["draft_lengths", "foreign", "pairs", "shared_with", "show_progress", "size", "stop_tokens"]


@contextlib.contextmanager
def show_progress(console: Console, title: str) -> Iterator[Callable[[str, str], None]]:
    """Says what long work does; the block is given a function (step, detail).

    On a terminal it is one line that changes, elsewhere a line for each step.
    """
    told: list[str] = []
    with console.status(title) as status:

        def on_progress(step: str, detail: str) -> None:
            if console.is_terminal:
                status.update(f"{title}: {step}{f' ({detail})' if detail else ''}")
            elif told[-1:] != [step]:
                console.print(f"{title}: {step}", highlight=False, soft_wrap=True)
            told.append(step)

        yield on_progress


def pairs(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    """A table of names and values."""
    table = Table(title=Text(printable(title)), show_header=False, title_justify="left", title_style="bold")
    for name, value in rows:
        table.add_row(name, Text(printable(value), overflow="fold"))
    return table


def foreign(text: str, style: str = "") -> Text:
    """`text` from a file, without rich's markup and without control characters."""
    return Text(printable(text), style=style)


def stop_tokens(texts: dict[str, str]) -> str:
    """Ids and texts of stop tokens: 1 "<eos>", 106 "<turn|>"."""
    return ", ".join(f"{ids} {json.dumps(text, ensure_ascii=False)}" for ids, text in texts.items()) or "none"


def draft_lengths(stock: int, further: Iterable[int]) -> str:
    """How many tokens are drafted a round."""
    text = f"{stock} per round"
    return f"{text}; the Python runtime also {', '.join(map(str, further))}" if further else text


def shared_with(bundle: BundleFile, section: Section) -> str:
    """What is said behind a section's weights of bytes that another one holds as well."""
    found = bundle.shared(section)
    return f"; {size(found[1])} are of {found[0].name}, too" if found else ""
