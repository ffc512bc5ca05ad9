"""`compare` as a person runs it: two recipes on one held-out text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gemma_mtp.quantize.recipes import read_recipe
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
    assert sum(entry["drafted"] for entry in mobile["drafts_by_prompt"]) > 8
    assert mobile["acceptance_error"] > 0 < mobile["kl_error"]
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


def test_mix_is_suggested_as_a_recipe_that_export_reads(
    run, small_fp32: Path, exports: Exports, prompts_file: Path, tmp_path: Path
) -> None:
    numbers, mine = tmp_path / "numbers.json", tmp_path / "mine.toml"
    code, output, error = run(
        "compare", str(TARGET), str(DRAFTER), "--suggest", "--max-kl", "0.1", "--max-acceptance-loss", "1",
        "--prompts", str(prompts_file), "--max-tokens", "8", "--context-length", str(CONTEXT), "--num-draft-tokens",
        str(DRAFT_TOKENS), "--skeleton-cache", str(exports.skeletons), "--json", str(numbers),
    )  # fmt: skip
    assert code == 0, error
    assert "estimated in torch" in error
    mine.write_text(output)
    recipe = read_recipe(str(mine))
    assert recipe.price is not None
    assert recipe.price.kl <= 0.1
    searched = json.loads(numbers.read_text())
    assert searched["recipes"][-1]["kl"] == pytest.approx(recipe.price.kl, rel=1e-3)
    alone = {(trial["part"], trial["format"]): trial["kl"] for trial in searched["suggestion"]["estimated_in_torch"]}
    assert len(alone) == 18
    assert alone["per_layer_embedder", "int4"] < alone["per_layer_embedder", "int2"]
    assert alone["drafter's head", "int2"] == pytest.approx(0, abs=1e-6)
    # Sums of what parts cost alone are near what the bundle costs.
    sums = sum(alone[choice] for choice in searched["suggestion"]["tried"][-1].items())
    assert recipe.price.kl == pytest.approx(sums, rel=0.5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--suggest", "--recipes", "int8"), "--suggest searches by itself"),
        (("--max-kl", "0.1"), "bounds for --suggest"),
    ],
)
def test_options_that_do_nothing_are_refused(options: tuple[str, ...], said: str, run, prompts_file: Path) -> None:
    code, output, error = run("compare", str(TARGET), str(DRAFTER), "--prompts", str(prompts_file), *options)
    assert (code, output) == (2, "")
    assert said in error
