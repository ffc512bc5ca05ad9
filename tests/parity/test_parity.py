"""`verify` on sound bundles, what it writes, how it judges, and what it says of input that it cannot use."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from scipy import stats
from transformers import Gemma4AssistantForCausalLM, Gemma4ForConditionalGeneration

from gemma_mtp.export.checkpoint.pair import open_pair
from gemma_mtp.export.parity import open_oracle, parse_size
from gemma_mtp.runtime.errors import UserError
from gemma_mtp.runtime.parity.options import VerifyOptions
from gemma_mtp.runtime.parity.oracle.oracle import Oracle
from gemma_mtp.runtime.parity.oracle.reference import draft, target_states
from gemma_mtp.runtime.parity.report.measures import (
    Agreement,
    Worst,
    cosine,
    kl_divergence,
    range_error,
    size_error,
    top_overlap,
)
from gemma_mtp.runtime.parity.report.report import Stage, Verdict
from gemma_mtp.runtime.parity.report.thresholds import THRESHOLDS, read_thresholds, weight_format
from gemma_mtp.runtime.parity.verify import verify
from gemma_mtp.runtime.text.prompts import Prompt
from tests.conftest import CONTEXT, DRAFTER, TARGET, WINDOW, BundleOf
from tests.support.faults import FAULTS, Fault, plant, planted
from tests.support.oracle import run_target
from tests.support.surgery import Surgery

PAIR = (TARGET, DRAFTER)
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def check(run) -> Command:
    """Runs `verify` in this process, where torch is loaded already; exit code, standard output and standard error."""
    return lambda *arguments: run("verify", *map(str, arguments))


@pytest.fixture(scope="module")
def prompts_file(tmp_path_factory: pytest.TempPathFactory, prompts) -> Path:
    file = tmp_path_factory.mktemp("parity") / "prompts.jsonl"
    file.write_text("".join(json.dumps({"text": prompt.text}) + "\n" for prompt in prompts[8:12]))
    return file


@pytest.fixture(scope="module")
def verified(bundle_of: BundleOf, prompts_file: Path, tmp_path_factory):
    """Exit code, output, JSON and page of `verify` on a fixture's bundle, in a process of its own; each made once."""
    made: dict[str, tuple[int, str, dict, str]] = {}

    def get(name: str) -> tuple[int, str, dict, str]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            files = ("--json", folder / "parity.json", "--html", folder / "parity.html")
            arguments = (bundle_of(name), *PAIR, "--prompts", prompts_file, "--threads", 2, *files)
            command = [sys.executable, "-m", "gemma_mtp.export.cli", "verify", *map(str, arguments)]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
            assert "LiteRT:" not in done.stderr
            page = (folder / "parity.html").read_text()
            made[name] = (done.returncode, done.stdout, json.loads((folder / "parity.json").read_text()), page)
        return made[name]

    return get


@pytest.mark.parametrize("weights", ["small_fp32", "small_int8"])
def test_sound_bundle_is_the_model(weights: str, verified) -> None:
    code, output, report, _ = verified(weights)
    assert code == 0, output
    assert output.splitlines()[-1].startswith("PASS")
    assert report["verdict"] == "pass"
    # The small target answers the general questions with code, and at length.
    assert report["skipped"] == ["conversation: a stop token ends a turn"]
    others = {stage["verdict"] for stage in report["stages"] if stage["name"] != "conversation"}
    assert others <= {"pass", "near tie"}
    limits = report["about"]["limits"]["name"]
    assert limits == weights.removeprefix("small_")


def test_slots_that_matter_are_looked_at(verified) -> None:
    looked_at = set(map(int, verified("small_fp32")[2]["about"]["probe"]))
    assert {0, 1, WINDOW - 1, WINDOW, WINDOW + 1, CONTEXT - 5, CONTEXT - 1} <= looked_at
    assert {31, 32, 33} <= looked_at  # The first chunk's end.


def test_float_bundle_is_exact_to_the_bit_among_its_signatures(verified) -> None:
    for weights in ("small_fp32", "small_int8"):
        stage = next(s for s in verified(weights)[2]["stages"] if s["name"] == "verify against decode")
        assert [check["value"] for check in stage["checks"]] == [0, 0, 0, 0, "yes", "yes"]


def test_further_verify_lengths_are_compared(check: Command, small_lengths: Path, tmp_path: Path) -> None:
    arguments = ("--no-stock", "--max-tokens", 4, "--probe-tokens", 70, "--json", tmp_path / "parity.json")
    code, output, _ = check(small_lengths, *PAIR, *arguments)
    assert code == 0, output
    stages = {stage["name"]: stage["checks"] for stage in json.loads((tmp_path / "parity.json").read_text())["stages"]}
    values = {check["name"]: check["value"] for check in stages["verify against decode"]}
    assert values["each verify length: difference"] == 0


def test_acceptance_is_stock_litert_lms(verified) -> None:
    """Three counts of the same rounds: the Python runtime's, the oracle's and LiteRT-LM's own."""
    values = {
        check["name"]: check["value"] for stage in verified("small_fp32")[2]["stages"] for check in stage["checks"]
    }
    assert values["acceptance rate of the bundle"] == values["acceptance rate of the oracle"]
    assert values["acceptance rate, as it reports"] == pytest.approx(values["acceptance rate of the bundle"], abs=0.05)


def test_page_stands_alone(verified) -> None:
    page = verified("small_int8")[3]
    tags: list[tuple[str, dict[str, str | None]]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append((tag, dict(attrs)))

    Reader().feed(page)
    assert sum(tag == "svg" for tag, _ in tags) == 4
    assert not [tag for tag, _ in tags if tag in ("script", "link", "img", "iframe")]
    assert not re.search(r"""(?:src|href)=["'](?!#)""", page)
    for stage in verified("small_int8")[2]["stages"]:
        assert stage["name"] in page
        assert all(check["name"] in page.replace("&#39;", "'") for check in stage["checks"])


def test_faulty_bundle_exits_with_1(check: Command, small_fp32: Path, tmp_path: Path) -> None:
    faulty = planted(small_fp32, FAULTS["shuffled token_ordering"], tmp_path / "faulty")
    code, output, _ = check(faulty, *PAIR, "--no-stock", "--max-tokens", 8, "--probe-tokens", 40, "-q")
    assert code == 1
    assert len(output.strip().splitlines()) == 1
    assert output.startswith("FAIL, first in weights")


def test_what_was_not_checked_is_said(check: Command, small_int8: Path) -> None:
    code, output, _ = check(small_int8, *PAIR, "--no-stock", "--max-tokens", 4, "--probe-tokens", 30)
    assert code == 0
    assert "skipped checks" in output.splitlines()[-1]
    for what in ("--no-stock", "--probe-tokens 30", "no slot looked at is past its 64 tokens"):
        assert what in " ".join(output.split())


def test_truncated_bundle_is_reported(check: Command, small_int8: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.litertlm").write_bytes((small_int8 / "model.litertlm").read_bytes()[:100_000])
    code, output, _ = check(tmp_path / "cut.litertlm", *PAIR, "-q")
    assert code == 1
    assert output.startswith("FAIL, first in contract: the bundle can be read is ")
    assert "truncated" in output


def test_bad_input_is_one_line(check: Command, small_fp32: Path, small_int8: Path, tmp_path: Path) -> None:
    (tmp_path / "limits.json").write_text('{"logit": 1}')
    cases = [
        ((tmp_path / "none.litertlm", *PAIR), "no such file"),
        ((small_int8, DRAFTER, TARGET), "expected a target"),
        ((small_int8, *PAIR, "--max-memory", "1MB"), "are needed"),
        ((small_int8, *PAIR, "--max-memory", "much"), "expected a size"),
        ((small_int8, *PAIR, "--recipe-thresholds", "int9"), "none of fp32, int8"),
        ((small_int8, *PAIR, "--recipe-thresholds", tmp_path / "limits.json"), "'logit'"),
        ((small_int8, *PAIR, "--max-tokens", "0"), "expected 1 or more"),
        ((small_int8, *PAIR, "--json", tmp_path / "no" / "where.json"), "cannot be written"),
    ]
    before = sorted(tmp_path.iterdir())
    for arguments, said in cases:
        code, output, error = check(*arguments, "-q")
        assert (code, output) == (2, ""), arguments
        line = error.strip().splitlines()[-1]
        assert line.startswith("Error: ")
        assert "Traceback" not in error
        assert said in line
    assert sorted(tmp_path.iterdir()) == before


def test_stricter_limits_fail(check: Command, small_int8: Path, tmp_path: Path) -> None:
    (tmp_path / "limits.json").write_text('{"format": "int8", "cache": 1e-6}')
    arguments = ("--recipe-thresholds", tmp_path / "limits.json", "--no-stock", "--max-tokens", 4, "--probe-tokens", 40)
    code, output, _ = check(small_int8, *PAIR, *arguments, "-q")
    assert code == 1
    assert output.startswith("FAIL, first in prefill")


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return open_oracle(open_pair(*map(str, PAIR)))


@pytest.fixture(scope="module")
def sequence() -> list[int]:
    return torch.randint(20, 2000, (90,), generator=torch.Generator().manual_seed(5)).tolist()


def test_streamed_oracle_is_transformers_own_model(oracle: Oracle, sequence: list[int], torch_pair) -> None:
    """Weights that are read layer by layer give the very numbers of a model that was loaded whole."""
    truth = run_target(torch_pair[0], sequence)
    for _ in range(2):  # Nothing of the first run is left in the second.
        run = oracle.run(sequence, [0, 40, 89])
        # Of three rows the head is another product than of all.
        np.testing.assert_allclose(run.logits, truth.logits[[0, 40, 89]].numpy(), atol=5e-5)
        np.testing.assert_array_equal(run.activations, truth.activations.numpy())
        for ours, theirs in zip(run.caches, truth.caches, strict=True):
            for mine, own in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(mine, own.numpy())


def test_oracles_drafts_are_the_references(oracle: Oracle, sequence: list[int], torch_pair) -> None:
    run, states = oracle.run(sequence, [0]), target_states(torch_pair[0], sequence)
    for slot in (1, 63, 80):
        expected = draft(*torch_pair, states, sequence[slot], slot, 4)
        for ours, (token, logits, activation) in zip(oracle.draft(run, sequence[slot], slot, 4), expected, strict=True):
            assert ours.token == token
            np.testing.assert_array_equal(ours.logits, logits.numpy())
            np.testing.assert_array_equal(ours.activation, activation.numpy())
            scored = ours.logits > ours.logits.min()
            np.testing.assert_allclose(ours.dense_logits[scored], ours.logits[scored], rtol=1e-4, atol=1e-4)


def test_text_only_checkpoint_and_padding_token(tmp_path: Path, torch_pair, sequence: list[int]) -> None:
    """The same weights under the names of the text-only form, with the padding token in the sequence."""
    target: Gemma4ForConditionalGeneration = torch_pair[0]
    drafter: Gemma4AssistantForCausalLM = torch_pair[1]
    drafter.save_pretrained(tmp_path / "drafter")
    from transformers import Gemma4ForCausalLM

    text = Gemma4ForCausalLM(target.config.text_config).eval()
    text.load_state_dict(
        {name.replace("model.language_model.", "model."): tensor for name, tensor in target.state_dict().items()}
    )
    text.save_pretrained(tmp_path / "target")
    tokens = [0, *sequence[:20], 0]
    truth = run_target(target, tokens)
    run = open_oracle(open_pair(str(tmp_path / "target"), str(tmp_path / "drafter"))).run(tokens, range(len(tokens)))
    np.testing.assert_array_equal(run.logits, truth.logits.numpy())


def test_fixture_for_other_projects(pytester: pytest.Pytester, small_fp32: Path, tmp_path: Path) -> None:
    faulty = planted(small_fp32, FAULTS["no embedding scale"], tmp_path / "faulty")
    pytester.makepyfile(f"""
        from gemma_mtp.runtime.parity.options import VerifyOptions
        from gemma_mtp.runtime.text.prompts import Prompt

        PAIR = ({str(TARGET)!r}, {str(DRAFTER)!r})
        OPTIONS = VerifyOptions((Prompt(text="def area(self):"),), max_tokens=8, probe_tokens=40, stock=False)

        def test_sound(mtp_parity):
            assert mtp_parity({str(small_fp32)!r}, *PAIR, options=OPTIONS).passed

        def test_faulty(mtp_parity):
            mtp_parity({str(faulty)!r}, *PAIR, options=OPTIONS)
    """)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*FAIL, first in embedders*"])


def test_measures_are_scipys_and_numpys() -> None:
    generator = np.random.default_rng(0)
    one, other = generator.normal(size=(2, 50)).astype(np.float32)
    p, q = (np.exp(row) / np.exp(row).sum() for row in (one.astype(np.float64), other.astype(np.float64)))
    assert kl_divergence(one, other) == pytest.approx(stats.entropy(p, q), rel=1e-5)
    assert size_error(1.1 * one, one) == pytest.approx(0.1, rel=1e-5)
    assert cosine(1.1 * one, one) == pytest.approx(1)
    assert cosine(one, other) == pytest.approx(np.corrcoef(one - one.mean(), other)[0, 1], abs=0.1)
    assert range_error(one + 0.5, one) == pytest.approx(0.5 / np.ptp(one), rel=1e-5)
    assert range_error(np.full(50, np.nan), one) == float("inf")
    assert top_overlap(one, one, 5) == 1
    assert top_overlap(one, -one, 5) == 0


def test_near_ties_are_counted_and_never_silent() -> None:
    oracle, agreement = np.array([1.0, 3.0, 2.9]), Agreement(margin=0.2)
    assert [agreement.add(ours, 1, oracle, f"row {ours}") for ours in (1, 2, 0)] == [True, False, False]
    assert (agreement.near_ties, agreement.rate, agreement.wrong) == (1, 1 / 3, 1 / 3)
    stage = Stage("decode")
    stage.agrees("top-1", agreement, least=0.3, wrong=0.5)
    assert [check.verdict for check in stage.checks] == [Verdict.NEAR_TIE, Verdict.PASS]
    assert stage.verdict is Verdict.NEAR_TIE
    stage.agrees("top-1", agreement, least=0.3, wrong=0.0)
    assert stage.verdict is Verdict.FAIL


def test_nan_and_nothing_never_pass() -> None:
    stage = Stage("prefill")
    assert stage.verdict is Verdict.SKIPPED
    stage.at_most("error", float("nan"), 1.0)
    assert stage.verdict is Verdict.FAIL
    worst = Worst()
    for value in (1.0, float("nan"), 2.0):
        worst.add(value, str(value))
    assert worst.where == "nan"


def test_limits_by_format() -> None:
    assert weight_format({"float32": 10, "int8": 5}) == "int8"
    assert weight_format({"float32": 10, "int32": 5}) == "fp32"
    assert read_thresholds(None, "int8", "bundle") == ("int8", THRESHOLDS["int8"])
    assert read_thresholds("fp32", "int8", "bundle") == ("fp32", THRESHOLDS["fp32"])
    with pytest.raises(UserError, match="no limits for int16 weights"):
        read_thresholds(None, "int16", "bundle")


@pytest.mark.parametrize(("text", "expected"), [("8GB", 8e9), ("800M", 8e8), ("1.5 GiB", 1.5e9), ("123", 123)])
def test_sizes(text: str, expected: float) -> None:
    assert parse_size(text) == expected


def test_model_of_nan_fails_and_its_report_can_be_read(check: Command, small_fp32: Path, tmp_path: Path) -> None:
    def spoil(model: Surgery) -> None:
        model.weight("layers.3.input_layernorm.weight")[5] = np.nan

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    bundle = planted(small_fp32, Fault("prefill_decode", spoil, ""), tmp_path / "nan")
    files = ("--json", tmp_path / "parity.json", "--html", tmp_path / "parity.html")
    code, output, _ = check(bundle, *PAIR, "--no-stock", "--max-tokens", 4, "--probe-tokens", 40, *files)
    assert code == 1
    assert output.splitlines()[-1].startswith("FAIL, first in weights")
    report = json.loads((tmp_path / "parity.json").read_text(), parse_constant=refuse)
    assert [stage["name"] for stage in report["stages"] if stage["verdict"] == "fail"][:2] == ["weights", "prefill"]
    assert (tmp_path / "parity.html").read_text().count("<svg") == 4


def test_quantized_caches_without_scales_are_refused(small_fp32: Path, tmp_path: Path, oracle: Oracle) -> None:
    """A sound bundle with int8 caches must not be called another model."""

    def quantize_caches(model: Surgery) -> None:
        for signature, graph in model.entries():
            for entry in (*signature.inputs, *signature.outputs):
                if entry.name.startswith(b"kv_cache_"):
                    graph.tensors[entry.tensorIndex].type = schema.TensorType.INT8

    bundle = planted(small_fp32, Fault("prefill_decode", quantize_caches, ""), tmp_path / "quantized")
    plant(bundle / "model.litertlm", Fault("mtp_drafter", quantize_caches, ""))
    with pytest.raises(UserError, match="kv_cache_k_0 is int8, with a scale that the file does not name"):
        verify(bundle, oracle, VerifyOptions((Prompt(text="def"),)))
