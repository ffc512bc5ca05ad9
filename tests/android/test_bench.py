"""The bench program on the real engine: on this machine, and on ARM64's own under an emulator, on its ARM kernels."""

from __future__ import annotations

import ctypes.util
import json
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gemma_mtp.export.bundle.metadata import MIN_RUNTIME_VERSION
from gemma_mtp.export.checkpoint.pair import open_pair
from gemma_mtp.export.parity import open_oracle
from gemma_mtp.quantize.recipes import NAMES
from gemma_mtp.runtime.bundle.inspection import inspect_bundle
from gemma_mtp.runtime.parity.oracle.oracle import Oracle
from gemma_mtp.runtime.parity.report.coverage import read_layout
from gemma_mtp.runtime.parity.report.measures import Agreement
from gemma_mtp.runtime.parity.report.thresholds import AS_STORED, Thresholds, read_thresholds, weight_format
from gemma_mtp.runtime.parity.weights.as_stored import oracle_as_stored
from gemma_mtp.runtime.stock import run_stock
from tests.android.conftest import MAX_TOKENS
from tests.android.tools import DEMO, Bench
from tests.conftest import DRAFTER, TARGET, Exports, HeldOutPrompt

OPTIONS = ("--max-tokens", str(MAX_TOKENS), "--threads", "2")
# What `export --weights` takes by name.
RECIPES = NAMES


@pytest.fixture(scope="session")
def bundle(exports: Exports) -> Callable[[str], Path]:
    """The shipped pair's bundle in a recipe: one that all tests share, or one for the CPU, where all recipes run."""

    def get(recipe: str) -> Path:
        if recipe in ("fp32", "int8"):
            return exports(f"small-{recipe}", weights=recipe) / "model.litertlm"
        return exports(f"cpu-{recipe}", weights=recipe, backends=("cpu",)) / "model.litertlm"

    return get


@pytest.fixture(scope="session")
def oracle() -> Oracle:
    """transformers' models on the shipped pair."""
    return open_oracle(open_pair(str(TARGET), str(DRAFTER)))


@pytest.mark.export
@pytest.mark.parametrize("recipe", RECIPES)
def test_texts_are_the_desktops(
    recipe: str, bundle: Callable[[str], Path], native: Bench, prompt_file: Path, chosen: list[HeldOutPrompt]
) -> None:
    texts = [prompt.text for prompt in chosen]
    desktop = run_stock(bundle(recipe), texts, speculative=False, max_tokens=MAX_TOKENS)
    answers = native.answers(bundle(recipe), prompt_file, *OPTIONS)
    assert [answer["off"]["text"] for answer in answers] == list(desktop.texts)
    assert all(answer["equal"] for answer in answers)
    for answer in answers:
        assert answer["on"]["text"].startswith(answer["off"]["text"])
        assert answer["off"]["tokens"] <= MAX_TOKENS
        assert answer["on"]["tokens_per_second"] > 0
        assert 0 < answer["on"]["time_to_first_token"] <= answer["on"]["seconds"]


@pytest.mark.export
@pytest.mark.parametrize("recipe", RECIPES)
def test_arm64_kernels_give_the_models_text(
    recipe: str,
    bundle: Callable[[str], Path],
    native: Bench,
    arm64: Bench,
    prompt_file: Path,
    chosen: list[HeldOutPrompt],
    oracle: Oracle,
    tokenizer,
) -> None:
    path = bundle(recipe)
    answers = arm64.answers(path, prompt_file, *OPTIONS)
    here = native.answers(path, prompt_file, *OPTIONS)
    assert all(answer["equal"] for answer in answers), "MTP changes the text on ARM64"
    limits, truth = _judge(path, oracle)
    if truth is oracle:  # Narrower weights are rounded otherwise by ARM's kernels: near ties can go either way.
        assert [answer["off"]["text"] for answer in answers] == [answer["off"]["text"] for answer in here]
    agreement = Agreement(limits.near_tie)
    for prompt, answer in zip((*chosen, *chosen), (*answers, *here), strict=True):
        tokens = tokenizer(prompt.text + answer["off"]["text"], add_special_tokens=False)["input_ids"]
        text = [prompt.tokens[0], *tokens]
        theirs = truth.run(text, range(len(prompt.tokens) - 1, len(text) - 1))
        for at in range(len(prompt.tokens), len(text)):
            logits = theirs.logits_at(at - 1)
            agreement.add(text[at], int(logits.argmax()), logits, f"token {at}")
    assert agreement.total >= MAX_TOKENS
    assert agreement.rate >= limits.top1, agreement.first_difference
    assert agreement.wrong <= limits.wrong, agreement.first_difference


def _judge(path: Path, oracle: Oracle) -> tuple[Thresholds, Oracle]:
    """What `verify` judges a bundle's text by: limits for its weights, and transformers' models, of formats of few bits
    on the weights as they are stored."""
    inspection = inspect_bundle(path)
    narrowest = weight_format(sum((Counter(model.constant_bytes) for model in inspection.models.values()), Counter()))
    if narrowest in AS_STORED:
        oracle = oracle_as_stored(oracle, read_layout(inspection.bundle).constants)
    return read_thresholds(None, narrowest, str(path))[1], oracle


@pytest.mark.export
def test_the_oldest_runtime_that_bundles_ask_for_gives_the_same_text(
    bundle: Callable[[str], Path], native: Bench, prompt_file: Path, need: Callable[..., Path]
) -> None:
    engine = need("engine-oldest", "engines", "oldest", "liblitert-lm.so")
    assert f"\0{MIN_RUNTIME_VERSION}\0".encode() in engine.read_bytes()
    oldest, newest = (
        bench.answers(bundle("int8"), prompt_file, *OPTIONS) for bench in (replace(native, engine=engine), native)
    )
    assert all(answer["equal"] for answer in oldest)
    assert [answer["off"]["text"] for answer in oldest] == [answer["off"]["text"] for answer in newest]


@pytest.mark.export
def test_prompts_are_read_as_json(bundle: Callable[[str], Path], native: Bench, tmp_path: Path) -> None:
    texts = ['# "é" \\ 漢 😀\n', "def \tf(a, b):\n"]
    lines = [json.dumps({"text": texts[0]}), "", json.dumps({"text": texts[1]}, ensure_ascii=False) + " "]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines), "utf-8")
    answers = native.answers(bundle("int8"), tmp_path / "prompts.jsonl", *OPTIONS)
    desktop = run_stock(bundle("int8"), texts, speculative=False, max_tokens=MAX_TOKENS)
    assert [answer["off"]["text"] for answer in answers] == list(desktop.texts)


@pytest.mark.export
def test_turns_alternate_and_repetitions_are_numbered(
    bundle: Callable[[str], Path], native: Bench, prompt_file: Path
) -> None:
    answers = native.answers(bundle("int8"), prompt_file, *OPTIONS, "--repetitions", "2")
    assert [(answer["repetition"], answer["prompt"]) for answer in answers] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert answers[0]["off"]["text"] == answers[2]["off"]["text"]


@pytest.mark.export
def test_acceptance_is_in_the_log(bundle: Callable[[str], Path], native: Bench, prompt_file: Path) -> None:
    done = native(bundle("int8"), prompt_file, *OPTIONS, "--verbose")
    assert 0 < float(re.findall(r"MTP Drafter - Success rate: ([0-9.]+)", done.stderr)[-1]) <= 1


@pytest.mark.parametrize(
    "line",
    [
        '{"text": 1}', '{"prompt": "a"}', '{"text": "a"', '{"text": "a"} x', '"a"', '{"text": "\\u0000"}',
        '{"text": "\\ud800"}', '{"text": "\\x"}', '{"text": "a\\"}', '{"text": "a", "b": 1}',
    ],
)  # fmt: skip
def test_what_is_no_prompt_is_refused(line: str, native: Bench, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"text": "good"}\n' + line + "\n", "utf-8")
    done = native(tmp_path / "none", tmp_path / "p.jsonl")
    assert done.returncode == 2
    assert "p.jsonl, line 2: expected" in done.stderr


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--max-tokens", "0"), "--max-tokens"), (("--threads", "x"), "--threads"), (("--backend", "npu"), "--backend"),
        (("--context", "-1"), "--context"), (("--bundel", "x"), "bundel"), (("more",), "more: expected options only"),
        ((), "/p: No such file"),
    ],
)  # fmt: skip
def test_wrong_options_are_named(options: tuple[str, ...], word: str, native: Bench, tmp_path: Path) -> None:
    done = native(tmp_path / "b", tmp_path / "p", *options)
    assert done.returncode == 2
    assert word in done.stderr


def test_help_is_no_error(native: Bench) -> None:
    done = subprocess.run([native.program, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "--context N" in done.stdout


@pytest.mark.export
def test_the_context_is_as_asked_for(bundle: Callable[[str], Path], native: Bench, prompt_file: Path) -> None:
    options = ("--max-tokens", "1000", "--threads", "2")
    whole, short = (native.answers(bundle("int8"), prompt_file, *options, *more) for more in ((), ("--context", "150")))
    for long_answer, short_answer in zip(whole, short, strict=True):
        assert short_answer["equal"]
        assert short_answer["off"]["tokens"] < long_answer["off"]["tokens"]
        assert long_answer["off"]["text"].startswith(short_answer["off"]["text"])


@pytest.mark.export
def test_a_corrupted_bundle_is_refused(
    bundle: Callable[[str], Path], native: Bench, prompt_file: Path, tmp_path: Path
) -> None:
    content = bundle("int8").read_bytes()
    faults = {"magic": b"X" + content[1:], "header": content[:40] + bytes(400) + content[440:], "cut": content[:2000]}
    for name, damaged in faults.items():
        path = tmp_path / f"{name}.litertlm"
        path.write_bytes(damaged)
        done = native(path, prompt_file, *OPTIONS)
        assert done.returncode, name
        assert "equal" not in done.stdout, name


@pytest.mark.export
def test_a_bundle_without_a_drafter_is_refused(
    bundle: Callable[[str], Path], native: Bench, prompt_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "plain.litertlm"
    content = bundle("int8").read_bytes()
    path.write_bytes(content.replace(b"tf_lite_mtp_drafter", b"tf_lite_mtp_dropper"))
    done = native(path, prompt_file, *OPTIONS)
    assert done.returncode == 2
    assert "has no drafter" in done.stderr


def test_another_library_is_refused(native: Bench, prompt_file: Path, tmp_path: Path) -> None:
    done = replace(native, engine=Path(ctypes.util.find_library("c") or "libc.so.6"))(tmp_path / "b", prompt_file)
    assert done.returncode == 2
    assert re.search(r"libc.so.6: has no litert_lm_\w+; expected LiteRT-LM", done.stderr)


def test_androids_engine_has_every_function(need: Callable[..., Path]) -> None:
    engine = need("engine-android", "engines", "arm64-v8a", "liblitert-lm.so").read_bytes()
    header = (DEMO / "bench" / "src" / "engine_api.h").read_text("utf-8")
    called = re.findall(r"^  F\([\w *]+, (\w+),", header, re.MULTILINE)
    assert len(called) > 30
    assert [name for name in called if f"\0litert_lm_{name}\0".encode() not in engine] == []
