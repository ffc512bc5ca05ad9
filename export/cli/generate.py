"""`generate`: run a bundle without a phone. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from ...runtime.decoding.schedules import SCHEDULES
from ...runtime.errors import UserError
from .run_options import load_quietly, prompts_given, run_options, template_options, template_variables
from .tables.runtime import print_statistics

if TYPE_CHECKING:
    from ...runtime.decoding.generation import Generation
    from ...runtime.decoding.statistics import Statistics


@click.command("generate")
@run_options
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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per answer, and one for all.")
@click.option("-q", "--quiet", is_flag=True, help="Print answers only, no numbers.")
def generate_command(
    bundle: Path, prompts: tuple[str, ...], prompts_file: Path | None, system: str | None, raw: bool, **choices: Any
) -> None:
    """Run BUNDLE (a .litertlm file, or an export's folder) on LiteRT's CPU, with MTP.

    \b
    gemma-mtp-export generate out/model.litertlm --prompt "Why is the sky blue?"
    """
    from ...runtime.decoding.generation import GenerationOptions
    from ...runtime.decoding.sampling import SamplingOptions
    from ...runtime.decoding.statistics import Statistics
    from ...runtime.model import Conversation

    if bool(prompts) == bool(prompts_file):
        raise UserError("expected either --prompt TEXT or --prompts FILE.jsonl" + (", not both" if prompts else ""))
    if system is not None and (raw or prompts_file):
        raise UserError("--system goes with the chat that --prompt makes; in a file, write it among the messages")
    variables = template_variables(choices)
    if variables and (raw or prompts_file):
        raise UserError(
            "--tools, --thinking and --template-variable go with the chat that --prompt makes; in a file, write tools,"
            " enable_thinking or chat_template_kwargs"
        )
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
    model = load_quietly(bundle, choices["threads"], choices["verbose"])
    conversation = None if prompts_file or raw else Conversation(model, options, system, **variables)
    total = Statistics()
    for prompt in asked:
        answer = conversation.stream(prompt.last_message) if conversation else model.stream_prompt(prompt, options)
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
