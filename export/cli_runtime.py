"""Commands that run a bundle: `generate` and `benchmark`. They import no torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from ..runtime.errors import UserError
from ..runtime.native_output import silence_native_stderr
from ..runtime.prompts import DEFAULT_PROMPTS, Prompt, read_prompts, user_prompt
from ..runtime.schedules import SCHEDULES
from .tables_runtime import print_benchmark, print_statistics

if TYPE_CHECKING:
    from ..runtime.generation import Generation
    from ..runtime.model import Model
    from ..runtime.statistics import Statistics

_BENCHMARK_TOKENS = 128


def _run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options of every command that runs a bundle."""
    for decorate in reversed(
        [
            click.argument("bundle", type=click.Path(path_type=Path)),
            click.option(
                "--prompt", "prompts", multiple=True, metavar="TEXT",
                help="A user's message, or - for standard input. Given again: the next turn of the same chat.",
            ),
            click.option(
                "--prompts", "prompts_file", type=click.Path(path_type=Path), metavar="FILE.jsonl",
                help='One {"prompt": ...}, {"messages": [...]} or {"text": ...} a line, each answered on its own.',
            ),
            click.option("--raw", is_flag=True, help="Take --prompt as the model reads it, without chat template."),
            click.option("--max-tokens", type=int, metavar="N", help="End an answer after N tokens."),
            click.option("--threads", type=click.IntRange(1), help="CPU threads.  [default: all cores, at most 4]"),
            click.option("-v", "--verbose", is_flag=True, help="Show LiteRT's own messages."),
        ]
    ):  # fmt: skip
        command = decorate(command)
    return command


@click.command("generate")
@_run_options
@click.option("--system", metavar="TEXT", help="System message of the chat that --prompt makes.")
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0 is greedy.")
@click.option("--top-k", type=int, default=0, help="Sample from the K most probable tokens; 0 is all.")
@click.option("--top-p", type=float, default=1.0, help="Sample from the most probable tokens that reach P together.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of sampling.")
@click.option("--stop", multiple=True, metavar="TEXT", help="End an answer before this text. May be given again.")
@click.option("--no-mtp", is_flag=True, help="Decode without drafting: the same text, one token a pass.")
@click.option("--num-draft-tokens", type=int, help="Drafted per round.  [default: what LiteRT-LM would draft]")
@click.option("--schedule", type=click.Choice(SCHEDULES), default="constant", show_default=True,
              help="heuristic: 2 more after a round with all drafts accepted, 1 fewer after others.")  # fmt: skip
@click.option("--confidence", type=float, default=0.0, help="Stop drafting below this probability of the best token.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per answer, and one for all.")
@click.option("-q", "--quiet", is_flag=True, help="Print answers only, no numbers.")
def generate_command(
    bundle: Path, prompts: tuple[str, ...], prompts_file: Path | None, system: str | None, raw: bool, **choices: Any
) -> None:
    """Run BUNDLE (a .litertlm file, or an export's folder) on LiteRT's CPU, with MTP.

    \b
    gemma-mtp-export generate out/model.litertlm --prompt "Why is the sky blue?"
    """
    from ..runtime.generation import GenerationOptions
    from ..runtime.model import Conversation
    from ..runtime.sampling import SamplingOptions
    from ..runtime.statistics import Statistics

    if bool(prompts) == bool(prompts_file):
        raise UserError("expected either --prompt TEXT or --prompts FILE.jsonl" + (", not both" if prompts else ""))
    if system is not None and (raw or prompts_file):
        raise UserError("--system goes with the chat that --prompt makes; in a file, write it among the messages")
    options = GenerationOptions(
        max_tokens=choices["max_tokens"],
        sampling=SamplingOptions(choices["temperature"], choices["top_k"], choices["top_p"], choices["seed"]),
        stop_strings=choices["stop"],
        mtp=not choices["no_mtp"],
        draft_tokens=choices["num_draft_tokens"],
        schedule=choices["schedule"],
        confidence=choices["confidence"],
    )
    asked = _read_prompts(prompts, prompts_file, raw)
    model = _load(bundle, choices["threads"], choices["verbose"])
    conversation = None if prompts_file or raw else Conversation(model, options, system)
    total = Statistics()
    for prompt in asked:
        answer = conversation.stream(prompt.last_message) if conversation else prompt.stream(model, options)
        _print_answer(answer, total, as_json=choices["as_json"], quiet=choices["quiet"])
    if choices["as_json"]:
        click.echo(json.dumps({"answers": len(asked), "statistics": total.as_dict()}))
    elif not choices["quiet"]:
        print_statistics(total, Console(stderr=True))


def _print_answer(answer: Generation, total: Statistics, *, as_json: bool, quiet: bool) -> None:
    """Text as it comes, or one JSON object when it is whole; the answer's counts are added to `total`."""
    try:
        for piece in answer:
            if not as_json:
                click.echo(piece, nl=False)
    except KeyboardInterrupt:
        click.echo()
        raise UserError("interrupted; the text above is incomplete") from None
    total.merge(answer.statistics)
    if as_json:
        click.echo(json.dumps(answer.as_dict()))
        return
    click.echo()
    if not quiet and answer.finish_reason == "context":
        click.echo("(the context is full)", err=True)


@click.command("benchmark")
@_run_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def benchmark_command(
    bundle: Path, prompts: tuple[str, ...], prompts_file: Path | None, raw: bool, as_json: bool, **choices: Any
) -> None:
    """Does MTP pay here? Measure BUNDLE's steps and runs on this machine, and say which draft length to export.

    Acceptance depends on the text: give prompts like your users'. Without any, three general ones are used.
    """
    from ..runtime.benchmark import benchmark
    from ..runtime.generation import GenerationOptions

    if prompts and prompts_file:
        raise UserError("expected either --prompt TEXT or --prompts FILE.jsonl, not both")
    asked = _read_prompts(prompts, prompts_file, raw) or [user_prompt(text) for text in DEFAULT_PROMPTS]
    options = GenerationOptions(max_tokens=choices["max_tokens"] or _BENCHMARK_TOKENS)
    model = _load(bundle, choices["threads"], choices["verbose"])
    with Console(stderr=True).status("measuring") as status:
        report = benchmark(model, asked, options, on_progress=lambda what: status.update(f"measuring: {what}"))
    if as_json:
        click.echo(json.dumps(report.as_dict(), indent=2))
    else:
        print_benchmark(report, Console())


def _read_prompts(prompts: tuple[str, ...], prompts_file: Path | None, raw: bool) -> list[Prompt]:
    if prompts_file:
        if raw:
            raise UserError('--raw goes with --prompt; in a file, write {"text": ...} instead')
        return read_prompts(prompts_file)
    texts = [sys.stdin.read() if prompt == "-" else prompt for prompt in prompts]
    return [Prompt(text=text) if raw else user_prompt(text) for text in texts]


def _load(bundle: Path, threads: int | None, verbose: bool) -> Model:
    if not verbose:
        silence_native_stderr()
    from ..runtime.model import load

    return load(bundle, threads)
