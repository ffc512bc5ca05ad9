"""`generate`: run a bundle without a phone. Imports no torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from ...runtime.decoding.schedules import SCHEDULES
from ...runtime.errors import UserError
from ...runtime.printable import printable
from .run_options import (
    check_text,
    load_for,
    prompts_given,
    refuse_given,
    refuse_quiet_and_verbose,
    run_options,
    template_options,
    template_variables,
)
from .tables.runtime import print_ending, print_prompt, print_statistics

if TYPE_CHECKING:
    from ...runtime.decoding.generation import Generation
    from ...runtime.text.prompts import Prompt

_OF_DRAFTING = ("--num-draft-tokens", "--schedule", "--confidence")
_OF_SAMPLING = ("--top-k", "--top-p", "--seed")


@click.command("generate", short_help="Run a bundle on this machine's CPU, with MTP.")
@run_options(max_tokens=512, again="the next turn of the same chat")
@click.option("--system", metavar="TEXT", help="System message of the chat that --prompt makes.")
@template_options
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
@click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON object for each prompt and its answer, and one for all."
)
@click.option("-q", "--quiet", is_flag=True, help="Print answers only: no prompts, no numbers.")
def generate_command(
    bundle: Path, prompts: tuple[str, ...], prompts_file: Path | None, system: str | None, raw: bool, **choices: Any
) -> None:
    """Run BUNDLE (a .litertlm file, or an export's folder) on LiteRT's CPU, with MTP.

    Answers go to standard output, everything else to standard error: numbers, and with several prompts each one before
    its answer.

    \b
    gemma-mtp-export generate out/model.litertlm --prompt "Why is the sky blue?"
    """
    from ...runtime.decoding.generation import GenerationOptions
    from ...runtime.decoding.sampling import SamplingOptions
    from ...runtime.decoding.statistics import Statistics
    from ...runtime.model import Conversation

    if bool(prompts) == bool(prompts_file):
        raise UserError("expected either --prompt TEXT or --prompts FILE.jsonl" + (", not both" if prompts else ""))
    for option, texts in (("--system", (system,) if system else ()), ("--stop", choices["stop"])):
        check_text(option, *texts)
    if system is not None and (raw or prompts_file):
        raise UserError("--system goes with the chat that --prompt makes; in a file, write it among the messages")
    variables = template_variables(choices)
    if variables and (raw or prompts_file):
        raise UserError(
            "--tools, --thinking and --template-variable go with the chat that --prompt makes; in a file, write tools,"
            " enable_thinking or chat_template_kwargs"
        )
    if choices["no_mtp"]:
        refuse_given(*_OF_DRAFTING, because="--no-mtp drafts nothing; leave out one or the other")
    if choices["temperature"] == 0:
        refuse_given(*_OF_SAMPLING, because="nothing is sampled at --temperature 0; raise it, such as to 0.8")
    refuse_quiet_and_verbose(choices["quiet"], choices["verbose"])
    options = GenerationOptions(
        max_tokens=choices["max_tokens"],
        sampling=SamplingOptions(choices["temperature"], choices["top_k"], choices["top_p"], choices["seed"]),
        stop_strings=choices["stop"],
        mtp=not choices["no_mtp"],
        draft_tokens=choices["num_draft_tokens"],
        schedule=choices["schedule"],
        confidence=choices["confidence"],
    )
    asked = prompts_given(prompts, prompts_file, raw)
    model = load_for(bundle, choices["threads"], choices["context_length"], choices["verbose"])
    conversation = None if prompts_file or raw else Conversation(model, options, system, **variables)
    total, messages = Statistics(), Console(stderr=True)
    for prompt in asked:
        answer = conversation.stream(prompt.last_message) if conversation else model.stream_prompt(prompt, options)
        if choices["as_json"]:
            _print_json(prompt, answer)
        else:
            if len(asked) > 1 and not choices["quiet"]:
                print_prompt(prompt.asked, messages)
            _print_answer(answer)
            if not choices["quiet"]:
                print_ending(answer, messages)
        total.merge(answer.statistics)
    if choices["as_json"]:
        click.echo(json.dumps({"answers": len(asked), "statistics": total.as_dict()}))
    elif not choices["quiet"]:
        print_statistics(total, messages)


def _print_answer(answer: Generation) -> None:
    """Text as it comes; on a terminal without characters that command it."""
    on_terminal = sys.stdout.isatty()
    try:
        for piece in answer:
            click.echo(printable(piece, keep="\n\t") if on_terminal else piece, nl=False)
    except KeyboardInterrupt:
        click.echo()
        raise UserError("interrupted; the text above is incomplete") from None
    click.echo()


def _print_json(prompt: Prompt, answer: Generation) -> None:
    """One JSON object when the answer is whole."""
    click.echo(json.dumps({"prompt": prompt.asked, **answer.finish().as_dict()}))
