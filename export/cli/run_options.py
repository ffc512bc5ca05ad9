"""What the commands have in common: which options were typed; and of those that run a bundle, prompts and loading."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ...runtime.errors import UserError
from ...runtime.fields import is_unicode, parse_json
from ...runtime.native_output import show_litert
from ...runtime.text.prompts import Prompt, read_prompts, read_tools, user_prompt
from ...runtime.threads import MOST_THREADS
from ..exit_codes import remember_verbose

if TYPE_CHECKING:
    from ...runtime.model import Model


def refuse_given(*options: str, because: str) -> None:
    """Refuse those of `options`, such as `--top-k`, that were typed for the command that runs; `because` says why.

    Raises:
        UserError: one of them was.
    """
    context = click.get_current_context()
    names = {name: parameter.name or "" for parameter in context.command.params for name in parameter.opts}
    left_alone = (None, ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)
    if given := [option for option in options if context.get_parameter_source(names[option]) not in left_alone]:
        raise UserError(f"{' and '.join(given)}: {because}")


def refuse_quiet_and_verbose(quiet: bool, verbose: bool) -> None:
    """Raises:
    UserError: both were asked for.
    """
    if quiet and verbose:
        raise UserError("--quiet and --verbose: one says less, the other more; give one of them")


def run_options(max_tokens: int, again: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Options of every command that runs a bundle; answers end after `max_tokens` by default, and `again` says what
    a second --prompt is."""
    return partial(_add_options, max_tokens, again)


def _add_options(max_tokens: int, again: str, command: Callable[..., None]) -> Callable[..., None]:
    for decorate in reversed(
        [
            click.argument("bundle", type=click.Path(path_type=Path)),
            click.option(
                "--prompt", "prompts", multiple=True, metavar="TEXT",
                help=f"A user's message, or - for standard input. Given again: {again}.",
            ),
            click.option(
                "--prompts", "prompts_file", type=click.Path(path_type=Path), metavar="FILE.jsonl",
                help='One {"prompt": ...}, {"messages": [...]} or {"text": ...} a line, each answered on its own.',
            ),
            click.option("--raw", is_flag=True, help="Take --prompt as the model reads it, without chat template."),
            click.option(
                "--max-tokens", type=int, default=max_tokens, show_default=True, metavar="N",
                help="End an answer after N tokens, if nothing else ended it.",
            ),
            click.option(
                "--threads", type=click.IntRange(1, MOST_THREADS), metavar="N",
                help="CPU threads.  [default: all cores, at most 4]",
            ),
            context_option,
            click.option("-v", "--verbose", is_flag=True, callback=remember_verbose,
                help="Show LiteRT's own messages, and tracebacks.",
            ),
        ]
    ):  # fmt: skip
        command = decorate(command)
    return command


def context_option(command: Callable[..., None]) -> Callable[..., None]:
    """`--context-length`, of every command that runs a bundle."""
    return click.option(
        "--context-length", type=int, metavar="TOKENS",
        help="Load the bundle with this context, prompt and answer together.  [default: what the bundle asks for]",
    )(command)  # fmt: skip


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
        found[name] = _value(value)
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
    texts = [_standard_input() if prompt == "-" else prompt for prompt in prompts]
    check_text("--prompt", *texts)
    return [Prompt(text=text) if raw else user_prompt(text) for text in texts]


def check_text(option: str, *texts: str) -> None:
    """Refuse what was typed in another encoding than UTF-8.

    Raises:
        UserError: one of `texts` was.
    """
    if not all(map(is_unicode, texts)):
        raise UserError(f"{option}: the text is not UTF-8; expected it to be")


def _standard_input() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise UserError(f"--prompt -: standard input is not UTF-8 ({error})") from error


def _value(text: str) -> Any:
    """JSON, or else a text."""
    check_text("--template-variable", text)
    try:
        json.loads(text)
    except ValueError:
        return text
    except RecursionError:
        pass
    return parse_json(text, "--template-variable", "JSON, or a text", strict=True)


def load_for(bundle: Path, threads: int | None, context_length: int | None, verbose: bool) -> Model:
    """The bundle, compiled; LiteRT's own messages only where `verbose`."""
    from ...runtime.model import load

    with show_litert() if verbose else nullcontext():
        return load(bundle, threads, context_length)
