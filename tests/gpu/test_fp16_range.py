"""What `fp16-range` shows of the shipped pair, and of copies with a weight scaled until float16 overflows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gemma_mtp.export.checkpoint.pair import open_pair
from gemma_mtp.export.parity import open_oracle
from gemma_mtp.runtime.parity.fp16_range import LARGEST, LayerRange, RangeReport, fp16_range
from tests.conftest import DRAFTER, TARGET
from tests.small_pair.corpus import held_out_prompts
from tests.support.scaled import scale_weight

# A norm follows, so the scaled model computes what it did, as long as nothing overflows.
FACTOR, SCALED = 1024, "layers.2.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def prompts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    lines = [{"text": held_out_prompts(1)[0]}, {"prompt": "class Queue:\n    pass"}]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture(scope="module")
def clean(prompts_file: Path) -> RangeReport:
    return fp16_range(open_oracle(open_pair(str(TARGET), str(DRAFTER))), TARGET, prompts_file)


def by_layer(report: RangeReport) -> dict[tuple[str, str], LayerRange]:
    return {(row.model, row.layer): row for row in report.layers}


def test_shipped_pair_fits(clean: RangeReport) -> None:
    assert {row.verdict for row in clean.layers} == {"ok"}
    assert (clean.activations, clean.overflows, clean.changed) == ("fp16", False, 0)
    assert {("target", f"layers.{n}") for n in range(10)} | {("drafter", "layers.3")} <= by_layer(clean).keys()
    assert all(0 < row.largest < LARGEST / 100 and 0 < row.loss < 0.01 for row in clean.layers)


def test_planted_overflow_of_the_target_is_caught(clean: RangeReport, run, prompts_file: Path, tmp_path: Path) -> None:
    planted = scale_weight(TARGET, SCALED, FACTOR, tmp_path / "target")
    code, output, _ = run("fp16-range", str(planted), str(DRAFTER), "--prompts", str(prompts_file), "--json")
    about = json.loads(output)
    assert (code, about["activations"]) == (1, "fp32")
    assert about["changed_tokens"] > 0
    overflowing = [row for row in about["layers"] if row["verdict"] == "overflow"]
    assert [(row["model"], row["layer"], row["loss"]) for row in overflowing] == [("target", "layers.2", None)]
    assert (
        "down_proj output" in overflowing[0]["where"] or "post_feedforward_layernorm input" in overflowing[0]["where"]
    )
    before = by_layer(clean)[("target", "layers.5")].largest
    after = next(row["largest"] for row in about["layers"] if row["layer"] == "layers.5")
    assert after == pytest.approx(before, rel=1e-3)  # Only the scaled product is larger.


def test_planted_overflow_of_the_drafter_is_caught(run, prompts_file: Path, tmp_path: Path) -> None:
    planted = scale_weight(DRAFTER, "layers.1.mlp.down_proj.weight", 2.0**17, tmp_path / "drafter")
    code, output, _ = run("fp16-range", str(TARGET), str(planted), "--prompts", str(prompts_file))
    assert code == 1
    flagged = [line for line in output.splitlines() if "overflow" in line]
    assert len(flagged) == 1
    assert "drafter layers.1" in flagged[0]
    assert "--activations fp32" in output


def test_value_near_the_limit_is_too_close() -> None:
    near, small = LayerRange("target", "layers.0", LARGEST / 2, "mlp"), LayerRange("target", "layers.1", 1.0, "mlp")
    lossy = LayerRange("target", "layers.2", 1.0, "mlp", loss=0.2)
    assert [row.verdict for row in (near, small, lossy)] == ["close", "ok", "loss"]
    assert RangeReport((near, small), 1, 0).activations == "fp32"
    assert not RangeReport((near, small), 1, 0).overflows


def test_prompts_that_cannot_be_read_are_one_line(run, tmp_path: Path) -> None:
    code, _, error = run("fp16-range", str(TARGET), str(DRAFTER), "--prompts", str(tmp_path / "none.jsonl"))
    assert code == 2
    assert error.count("\n") == 1
