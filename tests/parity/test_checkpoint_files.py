"""Is a bundle that of the checkpoints given? Its manifest, and what it has of their tokenizer and settings."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from transformers import AutoTokenizer, GenerationConfig

from gemma_mtp.export.bundle.manifest import manifest_sources
from gemma_mtp.export.bundle.reference import checkpoint_text, tokenizer_reference
from gemma_mtp.export.checkpoint.pair import open_pair
from gemma_mtp.export.parity import open_oracle
from gemma_mtp.runtime.bundle.inspection import inspect_bundle
from gemma_mtp.runtime.bundle.protos import SamplerParameters
from gemma_mtp.runtime.parity.metadata.manifest import manifest_checks
from gemma_mtp.runtime.parity.metadata.sampling import SamplingReference, sampling_problems
from gemma_mtp.runtime.parity.metadata.tokenizer import TokenizerReference, tokenizer_checks
from gemma_mtp.runtime.parity.report.report import Stage, Verdict
from gemma_mtp.runtime.parity.stages.metadata import metadata_stage
from tests.conftest import DRAFTER, TARGET, Exports
from tests.small_pair.corpus import held_out_prompts

ADAPTER = Path(__file__).parents[1] / "small_pair" / "chat_adapter"
ModelProto: Any = sentencepiece_model_pb2.ModelProto  # pyright: ignore[reportAttributeAccessIssue]


def failed(stage: Stage) -> str:
    return "; ".join(f"{check.name}: {check.value}" for check in stage.checks if check.verdict is Verdict.FAIL)


def checked(bundle: Path, target: Path = TARGET, drafter: Path = DRAFTER, adapters: tuple[Path, ...] = ()) -> Stage:
    stage, pair = Stage("files"), open_pair(str(target), str(drafter), [*map(str, adapters)])
    manifest_checks(stage, inspect_bundle(bundle), lambda: manifest_sources(pair))
    return stage


@pytest.fixture
def beside(small_int8: Path, tmp_path: Path) -> Path:
    """A bundle with its manifest, to be changed."""
    for name in ("model.litertlm", "manifest.json"):
        shutil.copyfile(small_int8 / name, tmp_path / name)
    return tmp_path


def changed(folder: Path, change: Callable[[Any], object]) -> Path:
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))
    return folder


def other_weights(source: Path, folder: Path) -> Path:
    """A checkpoint that differs in one bit of its last weight."""
    shutil.copytree(source, folder)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    return folder


@pytest.mark.parametrize("role", ["target", "drafter"])
def test_another_checkpoint_is_named(role: str, small_int8: Path, tmp_path: Path) -> None:
    given = {"target": TARGET, "drafter": DRAFTER}
    given[role] = other_weights(given[role], tmp_path / role)
    found = failed(checked(small_int8, given["target"], given["drafter"]))
    assert f"{role}: the bundle was made from another model.safetensors (SHA-256 " in found
    assert "config.json" not in found


def test_adapters_are_compared(exports: Exports, small_int8: Path, tmp_path: Path) -> None:
    chat = exports("chat", adapters=(ADAPTER,))
    assert failed(checked(chat, adapters=(ADAPTER,))) == ""
    assert "made with adapter chat_adapter, given: no adapter" in failed(checked(chat))
    assert "made with no adapter, given: adapter chat_adapter" in failed(checked(small_int8, adapters=(ADAPTER,)))
    other = shutil.copytree(ADAPTER, tmp_path / "chat_adapter")
    config = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps(config, indent=7))
    assert "adapter chat_adapter: the bundle was made from another adapter_config.json" in failed(
        checked(chat, adapters=(other,))
    )


def test_a_missing_manifest_is_skipped_and_said(small_int8: Path, tmp_path: Path) -> None:
    shutil.copyfile(small_int8 / "model.litertlm", tmp_path / "model.litertlm")
    stage = Stage("files")

    def unread() -> dict[str, Any]:
        raise AssertionError("gigabytes would be hashed for nothing")

    manifest_checks(stage, inspect_bundle(tmp_path), unread)
    assert {check.verdict for check in stage.checks} == {Verdict.SKIPPED}
    assert all("no manifest.json" in check.where for check in stage.checks)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.pop("sources"), "names no sources"),
        (lambda m: m["sources"].pop("drafter"), "names no drafter"),
        (lambda m: m["sources"]["target"]["sha256"].pop("config.json"), "made without config.json"),
        (lambda m: m["sources"]["target"]["sha256"].update(extra="0"), "made from extra, which is not there"),
        (lambda m: m["sources"]["target"].update(sha256=[1]), "has no hashes"),
        (lambda m: m["options"].update(context_length=128), "context_length is 257, expected 131"),
        (lambda m: m["options"].update(draft_tokens=3), "draft_tokens is 4, expected 3"),
        (lambda m: m["options"].update(verify_lengths=[2]), "verify_lengths has 0 entries, expected 1"),
        (lambda m: m["options"].update(prefill_lengths=[8, 16]), "prefill_lengths[1] is 32, expected 16"),
        (lambda m: m["options"].update(backends=["cpu"]), "prefill_decode.backend_constraint is missing"),
        (lambda m: m["options"].update(activations="fp16"), "mtp_drafter.prefer_activation_type is missing"),
        (lambda m: m["options"].update(activations=["fp16"]), "options cannot be read"),
        (lambda m: m["options"].update(backends=5), "options cannot be read"),
        (lambda m: m.pop("options"), "options cannot be read"),
    ],
)
def test_manifest_of_another_bundle_is_named(change: Callable[[Any], object], said: str, beside: Path) -> None:
    assert said in failed(checked(changed(beside, change)))


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_manifest_that_is_none_is_a_failed_check(content: bytes, beside: Path) -> None:
    (beside / "manifest.json").write_bytes(content)
    assert "manifest.json" in failed(checked(beside))


def test_adapted_bundle_has_the_adapters_surroundings(exports: Exports) -> None:
    pair = open_pair(str(TARGET), str(DRAFTER), [str(ADAPTER)])
    stage = Stage("metadata")
    bundle = inspect_bundle(exports("chat", adapters=(ADAPTER,)))
    metadata_stage(stage, bundle, checkpoint_text(pair), open_oracle(pair))
    assert failed(stage) == ""
    other = Stage("metadata")
    metadata_stage(other, bundle, checkpoint_text(open_pair(str(TARGET), str(DRAFTER))), open_oracle(pair))
    assert "the chat template is what an export writes" in failed(other)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, []),
        ({"k": 40}, ["top_k is 40, expected 64"]),
        ({"p": 0.9}, ["top_p is 0.9, expected 0.95"]),
        ({"temperature": 40.0}, ["temperature is 40, expected 1"]),
        ({"temperature": float("nan")}, ["temperature is nan, expected 1"]),
    ],
)
def test_sampling_is_what_transformers_reads(values: dict[str, float], said: list[str], tmp_path: Path) -> None:
    """With the settings of Gemma 4's own generation_config.json."""
    settings = {"do_sample": True, "temperature": 1.0, "top_k": 64, "top_p": 0.95}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    read: Any = GenerationConfig.from_pretrained(tmp_path)
    reference = SamplingReference(read.do_sample, read.top_k, read.top_p, read.temperature, 2048)
    parameters = SamplerParameters(**({"k": 64, "p": 0.95, "temperature": 1.0} | values))
    assert list(sampling_problems(parameters, reference)) == said


@pytest.mark.parametrize(("top_k", "expected"), [(None, 50), (0, 2048)])
def test_sampling_defaults(top_k: int | None, expected: int) -> None:
    parameters = SamplerParameters(k=expected, p=1.0, temperature=1.0)
    assert list(sampling_problems(parameters, SamplingReference(True, top_k, None, None, 2048))) == []


@pytest.fixture(scope="module")
def sentencepiece_model(tmp_path_factory: pytest.TempPathFactory) -> TokenizerReference:
    """transformers' tokenizer of a small `tokenizer.model` of Gemma's kind."""
    folder, model = tmp_path_factory.mktemp("sentencepiece"), io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(  # pyright: ignore[reportAttributeAccessIssue]
        sentence_iterator=iter("\n".join(held_out_prompts(200)).splitlines()),
        model_writer=model,
        vocab_size=500,
        model_type="bpe",
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        user_defined_symbols=["<mask>", "<|turn>", "<turn|>", "\n", "\t"],
        **{f"{name}_id": number for number, name in enumerate(("pad", "eos", "bos", "unk"))},
        **{f"{name}_piece": f"<{name}>" for name in ("pad", "eos", "bos", "unk")},
        minloglevel=2,
    )
    file = folder / "tokenizer.model"
    file.write_bytes(model.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GemmaTokenizer"}))
    shutil.copyfile(TARGET / "config.json", folder / "config.json")
    return tokenizer_reference(AutoTokenizer.from_pretrained(folder), file)


def compared(reference: TokenizerReference, change: Callable[[Any], object]) -> str:
    model = ModelProto.FromString(reference.file.read_bytes())
    change(model)
    stage = Stage("metadata")
    tokenizer_checks(stage, "model", model.SerializeToString(), reference)
    return failed(stage)


def exchange(model: Any) -> None:
    model.pieces[300].piece, model.pieces[301].piece = model.pieces[301].piece, model.pieces[300].piece


def test_sentencepiece_model_passes(sentencepiece_model: TokenizerReference) -> None:
    assert compared(sentencepiece_model, lambda model: None) == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (exchange, "token 300 is"),
        (lambda model: model.pieces.pop(), "token 499 is none"),
        (lambda model: model.pieces.add(piece="<new>", score=-999.0), "token 500 is '<new>', transformers has none"),
        (lambda model: setattr(model.pieces[400], "score", 0.5), "pieces[400].score is 0.5"),
        (lambda model: setattr(model.normalizer_spec, "add_dummy_prefix", True), "add_dummy_prefix"),
        (lambda model: setattr(model.trainer_spec, "byte_fallback", False), "byte_fallback"),
    ],
)
def test_sentencepiece_fault_is_named(
    change: Callable[[Any], object], said: str, sentencepiece_model: TokenizerReference
) -> None:
    assert said in compared(sentencepiece_model, change)


def test_other_kind_and_broken_files_are_named(sentencepiece_model: TokenizerReference) -> None:
    for kind, content, said in (
        ("json", (TARGET / "tokenizer.json").read_bytes(), "it is a .json, expected tokenizer.model"),
        ("model", b"\xff" * 40, "the tokenizer can be read"),
        ("model", b"", "token 0 is none, expected '<pad>'"),
    ):
        stage = Stage("metadata")
        tokenizer_checks(stage, kind, content, sentencepiece_model)
        assert said in failed(stage)
