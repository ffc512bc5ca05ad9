"""pytest fixture `mtp_parity` for other projects' tests; loaded by pytest wherever this package is installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ..runtime.parity.report.report import Report


@pytest.fixture(scope="session")
def mtp_parity() -> Callable[..., Report]:
    """`mtp_parity(bundle, target, drafter, **options)` verifies a bundle and fails the test if it is not the model.

    `options` are those of `verify_bundle`. Each bundle is verified once a session; the report is returned.
    """
    made: dict[tuple[Any, ...], Report] = {}

    def check(bundle: str | Path, target: str | Path, drafter: str | Path, **options: Any) -> Report:
        from .cli.tables.parity import report_text
        from .parity import verify_bundle

        key = (str(bundle), str(target), str(drafter), repr(sorted(options.items())))
        if key not in made:
            made[key] = verify_bundle(bundle, str(target), str(drafter), **options)
        if not made[key].passed:
            pytest.fail(report_text(made[key]), pytrace=False)
        return made[key]

    return check
