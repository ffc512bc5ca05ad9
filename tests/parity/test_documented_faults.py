"""docs/parity.md says of every planted fault what the tests assert: in which stage, for which weight formats."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parity.test_metadata_stage import FAULTS as METADATA
from tests.parity.test_weights_stage import FAULTS as WEIGHTS
from tests.support.faults import BOTH, FAULTS, SIGNATURES

Claim = tuple[str, frozenset[str]]
PAGE = Path(__file__).parents[2] / "docs" / "parity.md"


def claims() -> Iterator[tuple[str, Claim]]:
    """What the tests assert: a fault, where it is named, and in bundles of which formats."""
    for name, fault in FAULTS.items():
        later = f", then {fault.runs}" if fault.runs else ""
        if later and fault.runs_weights != fault.weights:
            later += f" ({fault.runs_weights[0]})"
        yield name, (fault.stage + later, frozenset(fault.weights))
    for signature, stage in SIGNATURES.items():
        yield f"another window in {signature}", (stage, frozenset({"fp32"}))
        yield f"another slot in {signature}", (stage, frozenset({"fp32"}))
    for name in METADATA:
        yield name, ("metadata", frozenset(BOTH))
    names = {name.partition(": ")[2] for name in WEIGHTS}
    for name in sorted(names):
        yield name, ("weights", frozenset(f for f in BOTH if f"{f}: {name}" in WEIGHTS))


def documented() -> dict[str, Claim]:
    """Faults in the page's table; what stands before a colon says what they are in."""
    lines = PAGE.read_text().partition("| planted fault ")[2].splitlines()[2:]
    found: dict[str, Claim] = {}
    for line in lines[: lines.index("")]:
        faults, *formats, stage = (cell.strip() for cell in line.strip("|").split("|"))
        seen = frozenset(name for name, cell in zip(BOTH, formats, strict=True) if cell == "yes")
        found |= dict.fromkeys(faults.rpartition(": ")[2].split(", "), (stage, seen))
    return found


@pytest.mark.parametrize(("fault", "claim"), [pytest.param(*each, id=each[0]) for each in claims()])
def test_page_says_what_is_asserted(fault: str, claim: Claim) -> None:
    assert documented().get(fault) == claim


def test_names_are_of_one_fault_each() -> None:
    names = [name for name, _ in claims()]
    assert len(names) == len(set(names))
    assert len(names) >= 40
