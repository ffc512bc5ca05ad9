"""What surrounds the graphs is part of the model: planted faults in a bundle's metadata are named in their stage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gemma_mtp.export.parity import verify_bundle
from gemma_mtp.runtime.parity.report.report import Report, Verdict
from gemma_mtp.runtime.parity.verify import VerifyOptions
from gemma_mtp.runtime.text.prompts import user_prompt
from tests.conftest import DRAFTER, TARGET
from tests.support.metadata import with_metadata

QUICK = VerifyOptions((user_prompt("class Stack:"),), max_tokens=24, probe_tokens=24, stock=False)


def lost_stop_token(metadata: Any) -> None:
    metadata.stop_tokens[1].token_ids.ids[0] = metadata.stop_tokens[0].token_ids.ids[0]


def another_stop_token(metadata: Any) -> None:
    metadata.stop_tokens[1].token_ids.ids[0] = 7


def another_start_token(metadata: Any) -> None:
    metadata.start_token.token_ids.ids[0] = 3


def another_template(metadata: Any) -> None:
    metadata.jinja_prompt_template = metadata.jinja_prompt_template.replace("<|turn>", "<|torn>", 1)


def report(bundle: Path) -> Report:
    return verify_bundle(bundle, str(TARGET), str(DRAFTER), QUICK)


def test_sound_bundle_passes(small_fp32: Path) -> None:
    stage = next(stage for stage in report(small_fp32 / "model.litertlm").stages if stage.name == "metadata")
    assert stage.verdict is Verdict.PASS
    assert len(stage.checks) == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lost_stop_token, "token 5 is lost"),
        (another_stop_token, "token 7 is none of the checkpoint's"),
        (another_start_token, "3, expected 2"),
        (another_template, "<|torn>"),
    ],
)
def test_planted_fault_is_named(change: Callable[[Any], None], said: str, small_fp32: Path, tmp_path: Path) -> None:
    found = report(with_metadata(small_fp32 / "model.litertlm", change, tmp_path))
    assert found.first_failure == "metadata"
    assert said in found.summary()
