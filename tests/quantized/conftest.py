"""The shipped pair in the layout of the QAT mobile releases, as transformers' own classes save it, and its bundle."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import DRAFTER, TARGET, Exports, HeldOutPrompt
from tests.quantized import mobile

Checkpoints = tuple[Path, Path]


@pytest.fixture(scope="session")
def mobile_pair(tmp_path_factory: pytest.TempPathFactory, prompts: list[HeldOutPrompt]) -> Checkpoints:
    folder = tmp_path_factory.mktemp("mobile")
    calibration = [prompt.tokens for prompt in prompts[6:12]]
    target = mobile.save_target(TARGET, folder / "target", mobile.BEARABLE_BITS, calibration)
    return target, mobile.save_drafter(DRAFTER, folder / "drafter")


@pytest.fixture(scope="session")
def mobile_bundle(exports: Exports, mobile_pair: Checkpoints) -> Path:
    return exports("mobile", *mobile_pair, weights="mobile")
