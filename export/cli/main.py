"""The command's entry point: its verbs, and what becomes of errors."""

from __future__ import annotations

import signal
import sys
from importlib.metadata import version
from types import FrameType
from typing import NoReturn

import click

from ...runtime.errors import UserError
from .benchmark import benchmark_command
from .demo import demo_command
from .export import export_command
from .fp16_range import fp16_range_command
from .generate import generate_command
from .inspect import inspect_command
from .verify import verify_command

_BAD_INPUT = 2


class _InOrder(click.Group):
    """Lists its verbs as they were added: in the order of use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("gemma-mtp-export"), prog_name="gemma-mtp-export")
def cli() -> None:
    """Export Gemma 4 and its MTP drafter to a bundle that LiteRT-LM decodes speculatively."""


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Take SIGTERM and SIGHUP as Ctrl-C is taken, also where SIGINT is ignored, as in a shell's background job."""
    raise KeyboardInterrupt


for command in (
    export_command,
    inspect_command,
    generate_command,
    verify_command,
    benchmark_command,
    fp16_range_command,
    demo_command,
):
    cli.add_command(command)


def _message(error: UserError | click.ClickException) -> str:
    if not isinstance(error, click.ClickException):
        return str(error)
    message = error.format_message()
    suggests = message.rstrip(")").endswith("?")
    if isinstance(error, click.UsageError) and error.ctx is not None and not suggests:
        return f"{message.rstrip('.')}; see {error.ctx.command_path} --help"
    return message


def main() -> NoReturn:
    """Entry point: errors a person can mend become one line and exit code 2."""
    signal.signal(signal.SIGTERM, _interrupt)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # As nohup sets it.
        signal.signal(signal.SIGHUP, _interrupt)
    try:
        sys.exit(cli.main(prog_name="gemma-mtp-export", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
    except (UserError, click.ClickException) as error:
        click.echo(f"Error: {' '.join(_message(error).split())}", err=True)
    except (KeyboardInterrupt, click.Abort):
        click.echo("Error: interrupted; nothing was written", err=True)
    except OSError as error:
        click.echo(f"Error: {error.filename or 'output'}: {error.strerror or error}", err=True)
    sys.exit(_BAD_INPUT)
