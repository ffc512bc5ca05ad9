"""float16 and int8 caches: what they hold, and that every promise made of float32 caches holds with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gemma_mtp.export.checkpoint.pair import open_pair
from gemma_mtp.export.kv_scales import scales_from_norms
from gemma_mtp.export.models.kv_cache import cache_length, kv_signature
from gemma_mtp.export.options import resolve_options
from gemma_mtp.runtime.bundle.inspection import Inspection, inspect_bundle
from gemma_mtp.runtime.decoding.generation import GenerationOptions
from gemma_mtp.runtime.errors import UserError
from gemma_mtp.runtime.model import load
from gemma_mtp.runtime.parity.stages.caches import read_rows, write_rows
from gemma_mtp.runtime.stock import run_stock
from tests.conftest import CONTEXT, DRAFT_TOKENS, DRAFTER, PREFILL, TARGET, BundleOf, Exports, HeldOutPrompt

FORMATS = ("kv_fp16", "kv_int8", "all_int8")
# Six of the first run to the context's end.
CHOSEN = slice(0, 24)


@pytest.fixture(scope="module")
def inspected(bundle_of: BundleOf):
    def get(name: str) -> Inspection:
        return inspect_bundle(bundle_of(name))

    return get


@pytest.fixture(scope="module")
def stock(bundle_of: BundleOf, prompts: list[HeldOutPrompt]):
    """The chosen prompts on stock LiteRT-LM's CPU, MTP off and on, to the stop token or the context's end."""
    made = {}

    def run(name: str):
        if name not in made:
            bundle, texts = bundle_of(name) / "model.litertlm", [prompt.text for prompt in prompts[CHOSEN]]
            made[name] = tuple(run_stock(bundle, texts, speculative=mtp) for mtp in (False, True))
        return made[name]

    return run


@pytest.mark.parametrize(("name", "share", "dtype"), [("kv_fp16", 2, "float16"), ("kv_int8", 4, "int8")])
def test_size_and_dtype(name: str, share: int, dtype: str, inspected, small_fp32: Path) -> None:
    found = inspected(name)
    assert found.kv_bytes * share == inspect_bundle(small_fp32).kv_bytes
    assert found.as_dict()["kv_cache_dtypes"] == [dtype]
    assert found.problems() == []


def test_scales_are_those_of_the_norms_everywhere(kv_int8: Path, inspected) -> None:
    pair = open_pair(str(TARGET), str(DRAFTER))
    kv = kv_signature(pair.target_config, pair.drafter_config, cache_length(CONTEXT, DRAFT_TOKENS), "int8")
    expected = scales_from_norms(pair, kv)
    found = inspected("kv_int8")
    assert found.as_dict()["kv_cache_scales"] == expected
    about = json.loads((kv_int8 / "manifest.json").read_text())["kv_signature"]
    assert (about["format"], about["scales"], about["scales_from"]) == ("int8", expected, "norms")
    # In target and drafter: both ends of a signature, the composites' attributes, and what runs on the CPU.
    for model in ("prefill_decode", "mtp_drafter"):
        places = {place.place.split(", ", 1)[1] for place in found.models[model].cache_scales}
        assert {"input", "inside odml.runtime_bmm"} <= places
        assert ("scale of odml.runtime_bmm" in places) == (model == "mtp_drafter")
        assert ("scale_k of odml.cache_update" in places) == (model == "prefill_decode")


@pytest.mark.parametrize("name", FORMATS)
def test_stock_writes_one_text_with_mtp_on_and_off(name: str, stock, prompts: list[HeldOutPrompt], tokenizer) -> None:
    def count(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    off, on = stock(name)
    filled = 0
    for prompt, expected, text in zip(prompts[CHOSEN], off.texts, on.texts, strict=True):
        # At the context's end the runtime finishes its round.
        assert text.startswith(expected)
        assert count(text[len(expected) :]) <= DRAFT_TOKENS
        filled += count(prompt.text + expected) >= CONTEXT * 0.9
    assert filled >= 4
    assert len(set(off.texts)) > len(off.texts) // 2


@pytest.mark.parametrize("name", FORMATS)
def test_python_runtime_writes_stocks_text(name: str, stock, bundle_of: BundleOf, prompts: list[HeldOutPrompt]) -> None:
    model, (off, _) = load(bundle_of(name), threads=2), stock(name)
    for prompt, expected in zip(prompts[CHOSEN], off.texts, strict=True):
        for mtp in (False, True):
            model.reset()
            assert model.stream_text(prompt.text, GenerationOptions(mtp=mtp)).finish().text == expected


@pytest.mark.parametrize("name", FORMATS)
def test_drafts_are_accepted_as_with_float_caches(name: str, stock, stock_runs) -> None:
    """At most 2 % less of the drafts, on texts that part at near ties."""
    float_caches = stock("small_int8" if name == "all_int8" else "small_fp32")[1].acceptance_rate
    assert stock(name)[1].acceptance_rate >= 0.98 * float_caches


def test_float16_caches_hold_the_float_model(stock) -> None:
    """Their rounding is so small that hardly a near tie goes the other way."""
    pairs = zip(stock("kv_fp16")[0].texts, stock("small_fp32")[0].texts, strict=True)
    assert sum(one != other for one, other in pairs) <= 1


def test_rows_come_back_within_half_a_step(kv_int8: Path) -> None:
    engine = load(kv_int8, threads=1).engine
    scales = engine.contract.cache_scales
    for layer in (0, 4):
        heads, _, head_dim = read_rows(engine, layer, 0, 9)[0].shape
        rows = tuple(np.random.default_rng(layer).normal(size=(2, heads, 9, head_dim)).astype(np.float32))
        write_rows(engine, layer, (rows[0], 100 * rows[1]))
        keys, values = read_rows(engine, layer, 0, 9)
        step = scales[f"kv_cache_k_{layer}"]
        inside = np.abs(rows[0]) < 127 * step
        assert np.abs(keys - rows[0])[inside].max() <= step / 2 * 1.001
        assert np.abs(values).max() <= 128 * scales[f"kv_cache_v_{layer}"] * 1.001  # Cut off, not wrapped around.
        assert (np.sign(values) == np.sign(rows[1]))[np.abs(rows[1]) > 1].all()


def test_scales_from_prompts(exports: Exports, run, tmp_path: Path, kv_int8: Path, prompts) -> None:
    """They are the largest entries seen, with room above; the bundle stands `verify`."""
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps({"text": prompts[20].text}) + "\n" + json.dumps({"prompt": "def area(self):"}) + "\n")
    options = ["--kv-cache", "int8", "--kv-cache-prompts", str(file), "--weights", "fp32", "-q"]
    lengths = ["--context-length", str(CONTEXT), "--prefill-lengths", ",".join(map(str, PREFILL))]
    skeletons = ["--skeleton-cache", str(exports.skeletons)]
    out = tmp_path / "out"
    code, _, error = run("export", str(TARGET), str(DRAFTER), "-o", str(out), *options, *lengths, *skeletons)
    assert code == 0, error
    about = json.loads((out / "manifest.json").read_text())["kv_signature"]
    assert about["scales_from"] == "2 prompts"
    norms = json.loads((kv_int8 / "manifest.json").read_text())["kv_signature"]["scales"]
    assert all(0.3 * norms[name] < scale < norms[name] for name, scale in about["scales"].items())
    seen = ["--max-tokens", "8", "--probe-tokens", "96"]
    code, output, _ = run("verify", str(out), str(TARGET), str(DRAFTER), "--no-stock", *seen, "-q")
    assert code == 0, output


def test_bad_choices_are_one_line(run, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "long.jsonl").write_text(json.dumps({"text": "a b " * 400}) + "\n")
    (tmp_path / "good.jsonl").write_text(json.dumps({"text": "a"}) + "\n")
    cases = [
        (("--kv-cache", "int4"), "'int4' is not one of"),
        (("--kv-cache", "fp16", "--kv-cache-prompts", str(tmp_path / "good.jsonl")), "is for int8 caches"),
        (("--kv-cache", "int8", "--kv-cache-prompts", str(tmp_path / "none.jsonl")), "none.jsonl"),
        (("--kv-cache", "int8", "--kv-cache-prompts", str(tmp_path / "empty.jsonl")), "empty.jsonl"),
        (("--kv-cache", "int8", "--kv-cache-prompts", str(tmp_path / "long.jsonl")), "prompt 1 has"),
        (("--kv-cache", "fp16", "--activations", "fp32"), "--kv-cache: fp16"),
    ]
    for options, said in cases:
        length = ("--context-length", str(CONTEXT))
        code, output, error = run(
            "export", str(TARGET), str(DRAFTER), "-o", str(tmp_path / "out"), "-q", *length, *options
        )
        assert (code, output) == (2, ""), options
        assert said in error.strip().splitlines()[-1]
        assert "Traceback" not in error
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="--kv-cache: 'bf16'"):
        resolve_options(open_pair(str(TARGET), str(DRAFTER)).target_config, kv_cache="bf16")  # pyright: ignore[reportArgumentType]
