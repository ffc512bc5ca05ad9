"""Whatever is wrong around the models is named by the metadata stage: each kind of content, in both formats.

The stage runs on its own, as it needs no graph; some faults go through the whole of `verify` as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gemma_mtp.export.bundle.reference import checkpoint_text
from gemma_mtp.export.checkpoint.pair import open_pair
from gemma_mtp.export.parity import open_oracle, verify_bundle
from gemma_mtp.runtime.bundle.inspection import inspect_bundle
from gemma_mtp.runtime.bundle.protos import StateBuffer
from gemma_mtp.runtime.parity.options import VerifyOptions
from gemma_mtp.runtime.parity.oracle.oracle import Oracle
from gemma_mtp.runtime.parity.report.report import Stage, Verdict
from gemma_mtp.runtime.parity.stages.metadata import CheckpointText, metadata_stage
from gemma_mtp.runtime.text.prompts import user_prompt
from tests.conftest import DRAFTER, TARGET, BundleOf
from tests.support.metadata import Planted, planted_metadata

QUICK = VerifyOptions((user_prompt("class Stack:"),), max_tokens=8, probe_tokens=8, stock=False)


def llm(change: Callable[[Any], object]) -> Planted:
    return Planted(llm=lambda metadata: change(metadata) and None)


def sampler(**values: float) -> Planted:
    def change(metadata: Any) -> None:
        for name, value in values.items():
            setattr(metadata.sampler_params, name, value)

    return Planted(llm=change)


def buffer(index: int, **values: Any) -> Planted:
    def change(metadata: Any) -> None:
        for name, value in values.items():
            setattr(metadata.llm_executor_metadata.state_buffers[index], name, value)

    return Planted(executor=change)


def stop_text(metadata: Any) -> None:
    metadata.stop_tokens[1].token_str = "class"


def template_text(metadata: Any) -> None:
    metadata.jinja_prompt_template = metadata.jinja_prompt_template.replace("<|turn>", "<|torn>", 1)


def template_syntax(metadata: Any) -> None:
    metadata.jinja_prompt_template += "{% if %}"


def generic_model(metadata: Any) -> None:
    metadata.llm_model_type.generic_model.SetInParent()


def template_branch(metadata: Any) -> None:
    """A branch that no conversation takes."""
    metadata.jinja_prompt_template += "{% if never %}x{% endif %}"


def affix(metadata: Any) -> None:
    metadata.prompt_templates.model.prefix = "<|turn>user\n"


def unknown_field(metadata: Any) -> None:
    metadata.MergeFromString(b"\xba\x3e\x01x")  # Number 999, length-delimited.


def lost_buffer(metadata: Any) -> None:
    del metadata.llm_executor_metadata.state_buffers[3]


def doubled_buffer(metadata: Any) -> None:
    buffers = metadata.llm_executor_metadata.state_buffers
    buffers.add().CopyFrom(buffers[0])


def other_window(metadata: Any) -> None:
    metadata.llm_executor_metadata.attention_mask_settings.sliding_window_size += 1


def other_mask(metadata: Any) -> None:
    metadata.llm_executor_metadata.attention_mask_settings.attention_mask_type += 1


def exchanged(tokenizer: dict[str, Any]) -> None:
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["t"], vocabulary["s"] = vocabulary["s"], vocabulary["t"]


def added_token(tokenizer: dict[str, Any]) -> None:
    tokenizer["added_tokens"].append(dict(tokenizer["added_tokens"][-1], id=2048, content="<new>"))


def lost_token(tokenizer: dict[str, Any]) -> None:
    """An ordinary one, with the merge that makes it."""
    first, second = tokenizer["model"]["merges"].pop()
    del tokenizer["model"]["vocab"][first + second]


def other_merge_order(tokenizer: dict[str, Any]) -> None:
    merges = tokenizer["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]


def other_normalizer(tokenizer: dict[str, Any]) -> None:
    tokenizer["normalizer"] = {"type": "Lowercase"}


def ordinary_control_token(tokenizer: dict[str, Any]) -> None:
    tokenizer["added_tokens"] = [each for each in tokenizer["added_tokens"] if each["content"] != "<|turn>"]


def other_decoder(tokenizer: dict[str, Any]) -> None:
    tokenizer["decoder"] = {"type": "Fuse"}


# Fault and what the report must say of it.
FAULTS: dict[str, tuple[Planted, str]] = {
    "stop token lost": (llm(lambda m: m.stop_tokens.pop()), "token 5 is lost"),
    "stop token exchanged": (llm(lambda m: m.stop_tokens[1].token_ids.ids.__setitem__(0, 7)), "token 7 is none of"),
    "stop token written out": (Planted(llm=stop_text), "is none of the checkpoint's"),
    "start token lost": (llm(lambda m: m.ClearField("start_token")), "none, expected 2"),
    "pad token exchanged": (
        llm(lambda m: m.pad_token.token_ids.ids.__setitem__(0, 9)),
        "pad_token.token_ids.ids[0] is 9, expected 0",
    ),
    "generic model type": (Planted(llm=generic_model), "llm_model_type.generic_model is set, expected none"),
    "tool calls' fence": (
        llm(lambda m: m.llm_model_type.gemma4.ClearField("code_fence_start")),
        "llm_model_type.gemma4.code_fence_start",
    ),
    "top-k": (sampler(k=1000), "top_k is 1000, expected 1"),
    "top-p": (sampler(p=0.01), "sampler_params.p is 0.0"),
    "temperature": (sampler(temperature=math.nan), "sampler_params.temperature is nan"),
    "seed": (sampler(seed=5), "sampler_params.seed is 5"),
    "max_num_tokens too large": (llm(lambda m: setattr(m, "max_num_tokens", 272)), "the placeholder for it 257"),
    "max_num_tokens of 0": (llm(lambda m: m.ClearField("max_num_tokens")), "max_num_tokens is 0"),
    "channel lost": (llm(lambda m: m.channels.pop()), "channels has 0 entries, expected 1"),
    "channel's end": (llm(lambda m: setattr(m.channels[0], "end", "<|channel>")), "channels[0].end is '<|channel>'"),
    "supports_thinking": (
        llm(lambda m: setattr(m, "supports_thinking", not m.supports_thinking)),
        "supports_thinking is",
    ),
    "supports_function_calling": (
        llm(lambda m: setattr(m, "supports_function_calling", not m.supports_function_calling)),
        "supports_function_calling is",
    ),
    "min_runtime_version": (
        llm(lambda m: setattr(m, "min_runtime_version", "99.0.0")),
        "min_runtime_version is '99.0.0'",
    ),
    "prompt template": (Planted(llm=affix), "prompt_templates.model.prefix"),
    "suppressed token": (llm(lambda m: m.suppress_tokens.ids.append(4)), "suppress_tokens is set, expected none"),
    "template": (Planted(llm=template_text), "<|torn>"),
    "template's syntax": (Planted(llm=template_syntax), "chat template gives transformers' prompts"),
    "no chat template": (llm(lambda m: m.ClearField("jinja_prompt_template")), "at character 0, expected"),
    "template's unused branch": (Planted(llm=template_branch), "{% if never %}"),
    "unknown field": (Planted(llm=unknown_field), "unknown field, number 999"),
    "no LLM metadata": (Planted(without=("LlmMetadataProto",)), "no LLM metadata section"),
    "corrupt LLM metadata": (Planted(corrupt="LlmMetadataProto"), "LLM metadata can be read"),
    "state buffer lost": (Planted(executor=lost_buffer), "no state buffer kv_cache_v_1"),
    "state buffer twice": (Planted(executor=doubled_buffer), "kv_cache_k_0 is declared twice"),
    "LOCAL for GLOBAL": (
        buffer(0, type=StateBuffer.TYPE_LOCAL_KEY_CACHE),
        "kv_cache_k_0 is TYPE_LOCAL_KEY_CACHE, expected TYPE_GLOBAL_KEY_CACHE",
    ),
    "value for key": (buffer(0, type=StateBuffer.TYPE_GLOBAL_VALUE_CACHE), "expected TYPE_GLOBAL_KEY_CACHE"),
    "sequence axis": (buffer(1, sequence_axis=2), "kv_cache_v_0: sequence_axis is 2, expected 3"),
    "state buffer's name": (buffer(2, prefill_output_name="kv_cache_k_0"), "kv_cache_k_1: its names differ"),
    "state buffer's policy": (buffer(2, minimum_sequence_length=9), "state_buffers[2].minimum_sequence_length is set"),
    "mask's window": (Planted(executor=other_window), "sliding_window_size is 65, expected 64"),
    "mask's type": (Planted(executor=other_mask), "attention_mask_type is"),
    "unknown field of the executor's": (Planted(executor=unknown_field), "unknown field, number 999"),
    "no executor metadata": (Planted(without=("ExecutorMetadataProto",)), "no executor metadata section"),
    "corrupt executor metadata": (Planted(corrupt="ExecutorMetadataProto"), "executor metadata can be read"),
    "two ids exchanged": (Planted(tokenizer=exchanged), "expected 's'"),
    "token added": (Planted(tokenizer=added_token), "token 2048 is '<new>', transformers has none"),
    "token lost": (Planted(tokenizer=lost_token), "token 2047 is none, expected"),
    "merges in another order": (Planted(tokenizer=other_merge_order), "model.merges[0]"),
    "normalizer": (Planted(tokenizer=other_normalizer), "normalizer.type is 'Lowercase'"),
    "control token made ordinary": (Planted(tokenizer=ordinary_control_token), "added_tokens has"),
    "decoder": (Planted(tokenizer=other_decoder), "tokens become transformers' text"),
    "no tokenizer": (Planted(without=("HF_Tokenizer_Zlib",)), "no tokenizer section"),
    "corrupt tokenizer": (Planted(corrupt="HF_Tokenizer_Zlib"), "tokenizer can be read"),
    "unknown item": (Planted(items={"speed": "fast"}), "section prefill_decode: item speed is 'fast'"),
    "activation type": (Planted(items={"prefer_activation_type": "fp12"}), "prefer_activation_type is 'fp12'"),
    "note on the template": (Planted(notes={"chat_template_verdict": "unchanged, I say"}), "chat_template_verdict is"),
    "unknown note": (Planted(notes={"trusted": "yes"}), "trusted is 'yes', which nothing is known of"),
}


@pytest.fixture(scope="module")
def text() -> CheckpointText:
    return checkpoint_text(open_pair(str(TARGET), str(DRAFTER)))


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return open_oracle(open_pair(str(TARGET), str(DRAFTER)))


def problems(bundle: Path, text: CheckpointText, oracle: Oracle) -> list[str]:
    """Failed checks of the stage with what they found; the bundle, one of many, is removed."""
    stage = Stage("metadata")
    metadata_stage(stage, inspect_bundle(bundle), text, oracle)
    bundle.unlink()
    return [f"{check.name}: {check.value}" for check in stage.checks if check.verdict is Verdict.FAIL]


@pytest.mark.parametrize("weights", ["small_fp32", "small_int8"])
def test_packed_again_without_a_fault_passes(
    weights: str, bundle_of: BundleOf, text: CheckpointText, oracle: Oracle, tmp_path: Path
) -> None:
    assert problems(planted_metadata(bundle_of(weights), Planted(), tmp_path), text, oracle) == []


@pytest.mark.parametrize("weights", ["small_fp32", "small_int8"])
@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_named(
    name: str, weights: str, bundle_of: BundleOf, text: CheckpointText, oracle: Oracle, tmp_path: Path
) -> None:
    fault, said = FAULTS[name]
    found = problems(planted_metadata(bundle_of(weights), fault, tmp_path), text, oracle)
    assert said in "; ".join(found)


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("two ids exchanged", "metadata"),
        ("corrupt executor metadata", "metadata"),
        ("max_num_tokens too large", "metadata"),
        ("no tokenizer", "contract"),
    ],
)
def test_verify_goes_on_to_a_report(name: str, first: str, small_int8: Path, tmp_path: Path) -> None:
    """What the runtime cannot open without is named in the contract, too."""
    fault, said = FAULTS[name]
    found = verify_bundle(planted_metadata(small_int8, fault, tmp_path), str(TARGET), str(DRAFTER), QUICK)
    assert found.first_failure == first
    stage = next(stage for stage in found.stages if stage.name == "metadata")
    assert said in "; ".join(f"{check.name}: {check.value}" for check in stage.checks)
