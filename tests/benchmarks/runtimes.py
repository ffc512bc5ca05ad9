"""The Python runtime beside stock LiteRT-LM on the same bundles, MTP off and on: `python -m tests.benchmarks.runtimes`.

Both decode greedily from held-out prompts that leave `--new-tokens` of the context, on the CPU. Runs take turns, so
that a busy machine slows both; ratios are of medians over the repetitions. The last line is one JSON object.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from gemma_mtp.export.checkpoint.pair import open_pair
from gemma_mtp.export.demo import SMALL_PAIR
from gemma_mtp.export.options import resolve_options
from gemma_mtp.export.pipeline import export
from gemma_mtp.export.progress import Reporter
from gemma_mtp.runtime.decoding.generation import GenerationOptions
from gemma_mtp.runtime.decoding.statistics import Statistics
from gemma_mtp.runtime.model import Model, load
from gemma_mtp.runtime.stock import run_stock
from tests.small_pair.corpus import held_out_documents


@dataclass
class Series:
    """One runtime in one mode: tokens per second of each repetition; and of the Python runtime, where time went."""

    speeds: list[float] = field(default_factory=list)
    spent: Statistics = field(default_factory=Statistics)
    accepted: float | None = None

    @property
    def speed(self) -> float:
        return statistics.median(self.speeds)


def held_out_texts(model: Model, count: int, tokens: int) -> list[str]:
    """Beginnings of held-out files with about `tokens` tokens."""
    encode, decode = model.bundle.tokenizer.encode, model.bundle.tokenizer.decode
    long = (document.text for document in held_out_documents() if len(document.text) > 8 * tokens)
    return [decode(encode(text[: 8 * tokens])[: tokens - 1]) for text, _ in zip(long, range(count), strict=False)]


def compare(
    bundle: Path, console: Console, *, prompts: int, new_tokens: int, repetitions: int, threads: int
) -> dict[tuple[str, bool], Series]:
    """Every runtime and mode on the bundle in `bundle`'s folder; keys are (`stock` or `python`, MTP on)."""
    model = load(bundle.parent, threads)
    texts = held_out_texts(model, prompts, model.bundle.rules.context_length - new_tokens)
    series = {(runtime, mtp): Series() for mtp in (False, True) for runtime in ("stock", "python")}
    for repetition in range(repetitions):
        for mtp in (False, True):
            console.print(f"  repetition {repetition + 1} of {repetitions}, MTP {'on' if mtp else 'off'}")
            stock, python = series["stock", mtp], series["python", mtp]
            answers = []
            for text in texts:
                model.reset()  # Both prefill every prompt anew.
                answers.append(model.stream_text(text, GenerationOptions(mtp=mtp)).finish())
            run = run_stock(bundle, texts, speculative=mtp, threads=threads)
            made = 0
            for answer, text in zip(answers, run.texts, strict=True):
                if not text.startswith(answer.text):
                    raise SystemExit(f"the runtimes differ: {answer.text[-80:]!r}, stock {text[-80:]!r}")
                # With MTP, LiteRT-LM goes a few tokens past the context's end.
                made += len(answer.tokens) + len(model.bundle.tokenizer.encode(text[len(answer.text) :]))
                python.spent.merge(answer.statistics)
            ours = sum(len(answer.tokens) for answer in answers)
            python.speeds.append(ours / sum(answer.statistics.decode_seconds for answer in answers))
            stock.speeds.append(made / sum(run.seconds))
            stock.accepted = run.acceptance_rate
    return series


def show(name: str, series: dict[tuple[str, bool], Series], console: Console) -> dict[str, float | None]:
    """Print a table and where the time went; the figures by name."""
    table = Table("MTP", "LiteRT-LM", "this runtime", "ratio", "accepted", title=f"{name}, tokens a second")
    for mtp in (False, True):
        stock, python = series["stock", mtp], series["python", mtp]
        rate = python.spent.acceptance_rate
        table.add_row(
            "on" if mtp else "off", f"{stock.speed:.2f}", f"{python.speed:.2f}", f"{python.speed / stock.speed:.2f}",
            f"{stock.accepted:.1%} / {rate:.1%}" if rate and stock.accepted else "",
        )  # fmt: skip
    gains = {runtime: series[runtime, True].speed / series[runtime, False].speed for runtime in ("stock", "python")}
    table.add_row("on / off", f"{gains['stock']:.2f}", f"{gains['python']:.2f}", "", "")
    console.print(table)
    for mtp in (False, True):
        seconds = series["python", mtp].spent.as_dict()["seconds"]
        total = seconds.pop("total")
        parts = ", ".join(f"{kind} {time / total:.0%}" for kind, time in seconds.items())
        console.print(f"  this runtime's time, MTP {'on' if mtp else 'off'}: {parts}")
    return {
        "ratio_off": series["python", False].speed / series["stock", False].speed,
        "ratio_on": series["python", True].speed / series["stock", True].speed,
        "mtp_gain_stock": gains["stock"],
        "mtp_gain_python": gains["python"],
        "acceptance_rate": series["python", True].spent.acceptance_rate,
    }


def export_small(out: Path, console: Console) -> Path:
    """The shipped pair's int8 bundle."""
    pair = open_pair(str(SMALL_PAIR / "target"), str(SMALL_PAIR / "drafter"))
    options = resolve_options(pair.target_config, context_length=256, prefill_lengths=(128,))
    return export(pair, options, out, Reporter(console))


@click.command()
@click.argument("bundles", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--prompts", default=3, show_default=True)
@click.option("--new-tokens", default=96, show_default=True)
@click.option("--repetitions", default=3, show_default=True)
@click.option("--threads", default=2, show_default=True)
def main(bundles: tuple[Path, ...], prompts: int, new_tokens: int, repetitions: int, threads: int) -> None:
    """Compare the runtimes on the shipped pair and on BUNDLES (.litertlm files with their export's other files)."""
    console, figures = Console(), {}
    with tempfile.TemporaryDirectory(prefix="gemma-mtp-benchmark-") as folder:
        small = export_small(Path(folder, "small"), console)
        for name, bundle in [("shipped pair", small), *((path.parent.name, path) for path in bundles)]:
            console.print(f"{name}:")
            series = compare(
                bundle, console, prompts=prompts, new_tokens=new_tokens, repetitions=repetitions, threads=threads
            )
            figures[name] = show(name, series, console)
    click.echo(json.dumps(figures))


if __name__ == "__main__":
    main()
