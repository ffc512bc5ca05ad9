"""The command's entry point: its verbs, and one place where every error ends."""

from __future__ import annotations

import signal
import sys
from importlib.metadata import version
from types import FrameType
from typing import NoReturn

import click

from ..exit_codes import BAD_INPUT, EXIT_CODES, report
from .benchmark import benchmark_command
from .demo import demo_command
from .device.command import device_command
from .export import export_command
from .fp16_range import fp16_range_command
from .generate import generate_command
from .inspect import inspect_command
from .verify import verify_command
from .weights.compare import compare_command
from .weights.recipes import recipes_command


class _InOrder(click.Group):
    """Lists its verbs as they were added: in the order of use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_CODES)
@click.version_option(version("gemma-mtp-export"), prog_name="gemma-mtp-export")
def cli() -> None:
    """Export Gemma 4 and its MTP drafter to a bundle that LiteRT-LM decodes speculatively."""


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Take SIGTERM and SIGHUP as Ctrl-C is taken, also where SIGINT is ignored, as in a shell's background job."""
    raise KeyboardInterrupt


for command in (
    export_command,
    recipes_command,
    compare_command,
    inspect_command,
    generate_command,
    verify_command,
    benchmark_command,
    device_command,
    fp16_range_command,
    demo_command,
):
    cli.add_command(command)


def main() -> NoReturn:
    """Entry point: every error becomes one line and an exit code; see exit_codes.py."""
    signal.signal(signal.SIGTERM, _interrupt)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # As nohup sets it.
        signal.signal(signal.SIGHUP, _interrupt)
    context = None
    try:
        context = cli.make_context("gemma-mtp-export", sys.argv[1:])
        with context:
            cli.invoke(context)
        sys.stdout.flush()
        sys.exit(0)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(BAD_INPUT)
    except click.exceptions.Exit as end:  # Of --help and --version.
        sys.exit(end.exit_code)
    except (SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # Libraries in Rust panic with what is no Exception.
        sys.exit(report(error, context))
