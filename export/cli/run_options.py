"""What the commands that run a bundle have in common: options, prompts, loading."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...runtime.errors import UserError
from ...runtime.native_output import silence_native_stderr
from ...runtime.text.prompts import Prompt, read_prompts, read_tools, user_prompt

if TYPE_CHECKING:
    from ...runtime.model import Model


def run_options(command: Callable[..., None]) -> Callable[..., None]:
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


def template_options(command: Callable[..., None]) -> Callable[..., None]:
    """What the chat template sees beside the messages; see `template_variables`."""
    for decorate in reversed(
        [
            click.option(
                "--tools", "tools_file", type=click.Path(path_type=Path), metavar="FILE.json",
                help="Function declarations that the chat template shall show to the model.",
            ),
            click.option(
                "--thinking", is_flag=True, help="Let the model think: enable_thinking of the chat template."
            ),
            click.option(
                "--template-variable", "further", multiple=True, metavar="NAME=VALUE",
                help="Another variable of the chat template; VALUE is JSON, or a text. May be given again.",
            ),
        ]
    ):  # fmt: skip
        command = decorate(command)
    return command


def template_variables(choices: dict[str, Any]) -> dict[str, Any]:
    """The variables that `template_options` gave, taken out of `choices`.

    Raises:
        UserError: one has no value, or the file holds no tools.
    """
    found: dict[str, Any] = {}
    for given in choices.pop("further"):
        name, equals, value = given.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"--template-variable: {given!r}, expected NAME=VALUE")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    if (path := choices.pop("tools_file")) is not None:
        found["tools"] = read_tools(path)
    if choices.pop("thinking"):
        found["enable_thinking"] = True
    return found


def prompts_given(prompts: tuple[str, ...], prompts_file: Path | None, raw: bool) -> list[Prompt]:
    """The prompts of the command line or of a file."""
    if prompts_file:
        if raw:
            raise UserError('--raw goes with --prompt; in a file, write {"text": ...} instead')
        return read_prompts(prompts_file)
    texts = [sys.stdin.read() if prompt == "-" else prompt for prompt in prompts]
    return [Prompt(text=text) if raw else user_prompt(text) for text in texts]


def load_quietly(bundle: Path, threads: int | None, verbose: bool) -> Model:
    """The bundle, compiled; LiteRT's own messages only where `verbose`."""
    if not verbose:
        silence_native_stderr()
    from ...runtime.model import load

    return load(bundle, threads)
