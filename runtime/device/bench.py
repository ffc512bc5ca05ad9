"""The bench program on a phone: run it, read its lines, and say what ended it."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from ..units import size
from .adb import LostDeviceError
from .phone import Phone

_ACCEPTANCE = re.compile(r"MTP Drafter - Success rate: ([0-9.e+-]+)")
_KILLED = 137  # 128 + SIGKILL.


@dataclass(frozen=True)
class Side:
    """One way of answering; seconds, and tokens a second of decoding."""

    text: str
    tokens: int
    tokens_per_second: float
    time_to_first_token: float
    seconds: float


@dataclass(frozen=True)
class Answer:
    """One prompt, answered once with MTP off and on."""

    prompt: int
    repetition: int
    equal: bool
    off: Side
    on: Side

    @property
    def ratio(self) -> float:
        """How many times as fast decoding is with MTP."""
        return self.on.tokens_per_second / self.off.tokens_per_second if self.off.tokens_per_second else 0.0


@dataclass(frozen=True)
class DeviceRun:
    """All answers; `peak_memory` in bytes, with the drafter loaded; `acceptance` as the engine reports it."""

    answers: tuple[Answer, ...]
    load_seconds: float
    peak_memory: int
    acceptance: float | None

    @property
    def ratio(self) -> float:
        """Median over the answers."""
        return statistics.median(answer.ratio for answer in self.answers)

    @property
    def ratios(self) -> tuple[float, float]:
        """The lowest and the highest."""
        found = [answer.ratio for answer in self.answers]
        return min(found), max(found)

    @property
    def different(self) -> list[int]:
        """Prompts whose text MTP changed."""
        return sorted({answer.prompt for answer in self.answers if not answer.equal})


def run_bench(
    phone: Phone,
    files: tuple[str, str, str, str],
    options: Sequence[str],
    *,
    expected: int,
    bundle_size: int,
    on_progress: Callable[[str, str], None] = lambda step, detail: None,
) -> DeviceRun:
    """Run the bench program.

    Args:
        phone: where.
        files: places of the program, the engine, the bundle and the prompts on it.
        options: further ones of the program.
        expected: how many answers are to come.
        bundle_size: bytes, for the message if memory was too little.
        on_progress: called with every answer.

    Raises:
        UserError: the program failed, the phone ended it, or it was disconnected; with how far it had come.
    """
    program, engine, bundle, prompts = files
    command = [program, "--engine", engine, "--bundle", bundle, "--prompts", prompts, "--verbose", *options]
    answers: list[Answer] = []
    around: dict[str, Any] = {}

    def on_line(line: str) -> None:
        value = _parse(line)
        if "prompt" in value:
            answers.append(_answer(value))
            on_progress(f"answer {len(answers)} of {expected}", f"{answers[-1].ratio:.2f}x")
        else:
            around.update(value)

    so_far = f"of {expected} answers were there"
    try:
        code, log = phone.device.follow(command, on_line)
    except LostDeviceError:
        raise UserError(
            f"{phone.device.serial} was disconnected when {len(answers)} {so_far}; reconnect it and run this again:"
            " what was copied is still there"
        ) from None
    if code == _KILLED or (code and re.search(r"^Killed", log, re.MULTILINE)):
        raise UserError(
            f"{phone.device.serial}: Android ended the program when {len(answers)} {so_far}, most likely for memory:"
            f" the bundle has {size(bundle_size)}, {size(phone.memory)} were free; close apps, shorten"
            " --context-length, or export with fewer bits"
        )
    if code or not around.get("done") or len(answers) != expected:
        said = [line.removeprefix("mtp-bench: ") for line in log.splitlines() if line.startswith("mtp-bench: ")]
        said = said or [line for line in log.splitlines() if line.strip()] or [f"exit code {code}"]
        raise UserError(f"{phone.device.serial}: the bench program failed: {said[-1]}")
    rates = _ACCEPTANCE.findall(log)
    return DeviceRun(
        tuple(answers), float(around["load_seconds"]), around["peak_kib"] * 1024, float(rates[-1]) if rates else None
    )


def _parse(line: str) -> dict[str, Any]:
    """A line of the program's; nothing where the line is another's, such as a warning of the linker."""
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _answer(value: dict[str, Any]) -> Answer:
    off, on = (Side(**value[name]) for name in ("off", "on"))
    return Answer(value["prompt"], value["repetition"], value["equal"], off, on)
