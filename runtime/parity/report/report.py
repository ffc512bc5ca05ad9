"""What a verification found: checks with numbers and limits, in stages, with one verdict."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from ...units import size
from .measures import Agreement

# Of the JSON form; a change that breaks readers raises it.
SCHEMA_VERSION = 1
COMPARED, RUN, NOT_COMPARED = "compared", "run", "not compared"


class Verdict(Enum):
    """Worst last. NOTE is a number without a limit; NEAR_TIE, a top-1 that differs within the margin that the
    format's logit error allows; SKIPPED, a check that was not made."""

    NOTE = "note"
    PASS = "pass"
    SKIPPED = "skipped"
    NEAR_TIE = "near tie"
    FAIL = "fail"


_ORDER = list(Verdict)


@dataclass(frozen=True)
class Check:
    """One number against its limit.

    `at_least` says that the limit is a lower one. `where` is where the worst value was found; `near_ties` counts
    differences that the limit does not count as wrong.
    """

    name: str
    value: float | str | None
    verdict: Verdict
    limit: float | None = None
    at_least: bool = False
    where: str = ""
    near_ties: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "name": self.name,
            "value": _finite(self.value),
            "limit": self.limit,
            "limit_is": "at least" if self.at_least else "at most",
            "verdict": self.verdict.value,
            "where": self.where,
            "near_ties": self.near_ties,
        }


@dataclass
class Stage:
    """A part of the path from prompt to text. `plots` are series for the report, by name."""

    name: str
    checks: list[Check] = field(default_factory=list)
    plots: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def verdict(self) -> Verdict:
        """That of the worst check; SKIPPED if there is none."""
        verdicts = [check.verdict for check in self.checks if check.verdict is not Verdict.NOTE]
        return max(verdicts, key=_ORDER.index, default=Verdict.SKIPPED)

    @property
    def has_run(self) -> bool:
        """Whether it made any check, whatever else it left out."""
        return any(check.verdict not in (Verdict.NOTE, Verdict.SKIPPED) for check in self.checks)

    def at_most(self, name: str, value: float, limit: float, where: str = "") -> None:
        """Add a check that passes where `value` does not exceed `limit`; NaN fails."""
        verdict = Verdict.PASS if value <= limit else Verdict.FAIL
        self.checks.append(Check(name, float(value), verdict, limit, where=where))

    def at_least(self, name: str, value: float, limit: float, where: str = "", near_ties: int = 0) -> None:
        """Add a check that passes where `value` reaches `limit`, with a note of `near_ties` among what did not."""
        passed = Verdict.NEAR_TIE if near_ties else Verdict.PASS
        verdict = passed if value >= limit else Verdict.FAIL
        self.checks.append(Check(name, float(value), verdict, limit, at_least=True, where=where, near_ties=near_ties))

    def agrees(self, name: str, agreement: Agreement, least: float, wrong: float) -> None:
        """Add two checks of top-1 choices: how many agree, and how many differ by more than a near tie."""
        self.at_least(name, agreement.rate, least, agreement.first_difference, agreement.near_ties)
        where = agreement.widest.where if agreement.wrong else ""
        self.at_most("another token, beyond a near tie", agreement.wrong, wrong, where)

    def holds(self, name: str, problems: list[str]) -> None:
        """Add a check that fails with the first of `problems`, and how many more there are."""
        found = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
        self.checks.append(Check(name, found or "yes", Verdict.FAIL if problems else Verdict.PASS))

    def note(self, name: str, value: float | str | None, where: str = "") -> None:
        """Add a number that no limit applies to."""
        self.checks.append(Check(name, value, Verdict.NOTE, where=where))

    def skip(self, name: str, reason: str) -> None:
        """Add a check that was not made."""
        self.checks.append(Check(name, None, Verdict.SKIPPED, where=reason))

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "name": self.name,
            "verdict": self.verdict.value,
            "seconds": round(self.seconds, 3),
            "checks": [check.as_dict() for check in self.checks],
            "plots": _finite(self.plots),
        }


@dataclass(frozen=True)
class Covered:
    """Some bytes of a section.

    Attributes:
        section: a model's type, a section's kind, `header`, or `file` for what lies between them.
        part: what they are.
        bytes: how many.
        how: `compared`, with the checkpoint's; `run`, so that what they compute was compared; or `not compared`.
        by: the stages that did.
    """

    section: str
    part: str
    bytes: int
    how: str
    by: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Report:
    """A whole verification; `about` says of what, with what; `coverage`, what compared each byte of the file."""

    about: dict[str, Any]
    stages: tuple[Stage, ...]
    coverage: tuple[Covered, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether no check failed; near ties and skipped checks are shown, but do not fail."""
        return self.first_failure is None

    @property
    def first_failure(self) -> str | None:
        """Name of the first stage with a failed check: where to look."""
        return next((stage.name for stage in self.stages if stage.verdict is Verdict.FAIL), None)

    @property
    def near_ties(self) -> int:
        """Near ties of all checks."""
        return sum(check.near_ties for stage in self.stages for check in stage.checks)

    @property
    def skipped(self) -> list[str]:
        """Checks that were not made, as `stage: check`."""
        return [
            f"{stage.name}: {check.name}"
            for stage in self.stages
            for check in stage.checks
            if check.verdict is Verdict.SKIPPED
        ]

    def covered_bytes(self, *how: str) -> int:
        """Bytes of the file that were covered in one of these ways; all of them where none is given."""
        return sum(entry.bytes for entry in self.coverage if not how or entry.how in how)

    def coverage_summary(self) -> str:
        """What was compared of the file, in one line."""
        if not self.coverage:
            return "unknown, as the weights were not reached"
        parts = [f"{size(self.covered_bytes(how))} {how}" for how in (COMPARED, RUN) if self.covered_bytes(how)]
        left = [entry for entry in self.coverage if entry.how == NOT_COMPARED]
        named = ", ".join(f"{entry.section}: {entry.part} ({size(entry.bytes)})" for entry in left)
        return f"{', '.join(parts) or 'nothing'} of {size(self.covered_bytes())}; not compared: {named or 'nothing'}"

    def summary(self) -> str:
        """The verdict in one line."""
        if self.first_failure:
            failed = next(check for stage in self.stages for check in stage.checks if check.verdict is Verdict.FAIL)
            return f"FAIL, first in {self.first_failure}: {failed.name} is {shown(failed)}"
        counts = (("near tie", self.near_ties), ("skipped check", len(self.skipped)))
        notes = [f"{count} {what}{'s' if count > 1 else ''}" for what, count in counts if count]
        return "PASS" + (f" ({', '.join(notes)})" if notes else "")

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types."""
        return {
            "schema_version": SCHEMA_VERSION,
            "verdict": "pass" if self.passed else "fail",
            "first_failure": self.first_failure,
            "near_ties": self.near_ties,
            "skipped": self.skipped,
            "about": self.about,
            "stages": [stage.as_dict() for stage in self.stages],
            "coverage": [entry.as_dict() for entry in self.coverage],
        }


def _finite(value: Any) -> Any:
    """`value` with None for what JSON has no word for: NaN and infinity."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def shown(check: Check) -> str:
    """A check's value, with its limit and where it was found."""
    text = number(check.value)
    if check.limit is not None:
        text += f", expected at {'least' if check.at_least else 'most'} {number(check.limit)}"
    return f"{text} ({check.where})" if check.where else text


def number(value: float | str | None) -> str:
    """A value for people: four digits, small ones as powers of ten, and all nines of one that is nearly 1."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if 0.999 < value < 1:
        return f"{value:.7f}".rstrip("0")
    return f"{value:.4g}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"
