"""`compare` as a person runs it: two recipes on one held-out text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gemma_mtp.runtime.bundle.inspection import inspect_bundle
from tests.conftest import CONTEXT, DRAFT_TOKENS, DRAFTER, TARGET, Exports
from tests.small_pair.corpus import held_out_prompts


@pytest.fixture(scope="module")
def prompts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("".join(json.dumps({"text": text[:200]}) + "\n" for text in held_out_prompts(2)))
    return path


def test_narrower_weights_cost_text_and_save_bytes(
    run, small_fp32: Path, exports: Exports, prompts_file: Path, tmp_path: Path
) -> None:
    numbers, page = tmp_path / "prices.json", tmp_path / "prices.html"
    code, output, error = run(
        "compare", str(TARGET), str(DRAFTER), "--recipes", "fp32,mobile", "--prompts", str(prompts_file),
        "--max-tokens", "16", "--context-length", str(CONTEXT), "--num-draft-tokens", str(DRAFT_TOKENS),
        "--skeleton-cache", str(exports.skeletons), "--json", str(numbers), "--html", str(page),
    )  # fmt: skip
    assert code == 0, error
    fp32, mobile = json.loads(numbers.read_text())["recipes"]
    # transformers computes what the fp32 bundle does; the mix is for weights trained for it.
    assert fp32["kl"] < 1e-5
    assert (fp32["top1"], fp32["acceptance_loss"]) == (1, 0)
    assert mobile["kl"] > 0.1
    assert mobile["perplexity"] > fp32["perplexity"]
    assert mobile["bundle_bytes"] < fp32["bundle_bytes"] / 4
    assert sum(fp32["components"].values()) == pytest.approx(_weight_bytes(small_fp32), rel=0.01)
    assert all(row in output for row in ("KL, nats", "float drafter", "draft, ms"))
    assert page.read_text().count("<svg") == 2


def _weight_bytes(folder: Path) -> int:
    """The embedder's one is the head's as well."""
    models = inspect_bundle(folder / "model.litertlm").models
    return sum(sum(model.constant_bytes.values()) for name, model in models.items() if name != "embedder")


def test_recipe_named_twice_is_refused(run, prompts_file: Path) -> None:
    code, output, error = run(
        "compare", str(TARGET), str(DRAFTER), "--recipes", "int8,int8", "--prompts", str(prompts_file)
    )
    assert (code, output) == (2, "")
    assert error.endswith("names one twice\n")
