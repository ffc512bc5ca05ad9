"""What becomes of an error: one line, an exit code, and the traceback for those who ask for it."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import traceback
from importlib.metadata import version

import click

from ..runtime.errors import OUT_OF_MEMORY, UserError, says_out_of_memory
from ..runtime.printable import one_line

CHECK_FAILED, BAD_INPUT, INTERNAL = 1, 2, 3
EXIT_CODES = (
    "Exit codes: 0 done; 1 a check failed; 2 bad input or use, or too little memory or space; 3 an error of this"
    " program itself, with a line to report it by (-v shows the traceback)."
)
_VERBOSE = "gemma_mtp.verbose"
_PROJECT = "gemma_mtp."
_VERSIONS = ("gemma-mtp-export", "torch", "transformers", "litert-torch", "ai-edge-litert", "litert-lm")


def remember_verbose(ctx: click.Context, parameter: click.Parameter, value: bool) -> bool:
    """Callback of every command's --verbose."""
    ctx.meta[_VERBOSE] = value
    return value


def report(error: BaseException, context: click.Context | None) -> int:
    """Print what happened on standard error, in one line; exit code of the process."""
    if isinstance(error, BrokenPipeError):
        # Python writes what is left when it ends, and would complain once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    line, code = _line(error)
    if code == INTERNAL and context is not None and context.meta.get(_VERBOSE):
        traceback.print_exception(error)
    click.echo(f"{'Internal error' if code == INTERNAL else 'Error'}: {one_line(line)}", err=True)
    return code


def _line(error: BaseException) -> tuple[str, int]:
    match error:
        case UserError():
            return str(error), BAD_INPUT
        case click.ClickException():
            return _of_click(error), BAD_INPUT
        case KeyboardInterrupt() | click.Abort():
            return "interrupted; nothing was written", BAD_INPUT
        case MemoryError():
            return OUT_OF_MEMORY, BAD_INPUT
        case BrokenPipeError():
            return "whoever read the output closed it before its end", BAD_INPUT
        case OSError():
            return f"{error.filename or 'output'}: {error.strerror or error}", BAD_INPUT
        case _ if says_out_of_memory(str(error)):
            return OUT_OF_MEMORY, BAD_INPUT
        case _:
            return _internal(error), INTERNAL


def _of_click(error: click.ClickException) -> str:
    message = error.format_message()
    suggests = message.rstrip(")").endswith("?")
    if isinstance(error, click.UsageError) and error.ctx is not None and not suggests:
        return f"{message.rstrip('.')}; see {error.ctx.command_path} --help"
    return message


def _internal(error: BaseException) -> str:
    message = (str(error).strip().splitlines() or ["no message"])[0]
    versions = ", ".join(f"{package} {version(package)}" for package in _VERSIONS)
    return (
        f"{type(error).__name__}: {message} ({_place(error)}); -v shows more; please report this line and what it was"
        f" run on to the project's issue tracker: gemma-mtp-export {shlex.join(sys.argv[1:])} (Python"
        f" {platform.python_version()}, {versions})"
    )


def _place(error: BaseException) -> str:
    """The innermost line of this project that the error passed."""
    frames = [
        (frame.f_globals["__name__"].removeprefix(_PROJECT).replace(".", "/"), line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__", "")).startswith(_PROJECT)
    ]
    return f"{frames[-1][0]}.py:{frames[-1][1]}" if frames else "outside the project"
