"""What a bundle's metadata say of a checkpoint's text: stop tokens, sampling, control tokens, templates."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf import text_format
from transformers import AutoConfig, GenerationConfig

from gemma_mtp.export.bundle.metadata import llm_metadata
from gemma_mtp.export.checkpoint.files import Checkpoint
from gemma_mtp.export.checkpoint.read_config import read_target_config
from gemma_mtp.export.text.files import TextFiles, read_text_files
from gemma_mtp.export.text.sampling import Sampling, read_sampling
from gemma_mtp.export.text.special_tokens import CONTROL_TOKENS, single_token, stop_tokens, unstopped
from gemma_mtp.runtime.bundle.protos import LlmMetadata
from gemma_mtp.runtime.errors import UserError
from gemma_mtp.runtime.text.tokenizer import HuggingFaceTokenizer
from tests.conftest import TARGET

# Values of LiteRT-LM's own metadata for Gemma 4 E2B and E4B, without a field that 0.18.1 does not know any more.
GOOGLES = r"""
start_token { token_ids { ids: 2 } }
stop_tokens { token_ids { ids: 1 } }
stop_tokens { token_ids { ids: 50 } }
stop_tokens { token_ids { ids: 106 } }
sampler_params { type: TOP_P k: 64 p: 0.95 temperature: 1.0 }
llm_model_type {
  gemma4 {
    start_of_image_token { token_str: "<|image>" }
    end_of_image_token { token_str: "<image|>" }
    patch_width: 16 patch_height: 16 max_num_patches: 2520
    start_of_audio_token { token_str: "<|audio>" }
    end_of_audio_token { token_str: "<audio|>" }
    code_fence_start: "<|tool_call>" code_fence_end: "<tool_call|>"
    open_quote: "<|\"|>" close_quote: "<|\"|>"
    function_response_start: "<|tool_response>"
  }
}
prompt_templates {
  user { prefix: "<|turn>user\n" suffix: "<turn|>\n" }
  model { prefix: "<|turn>model\n" suffix: "<turn|>\n" }
}
channels { channel_name: "thought" start: "<|channel>thought\n" end: "<channel|>" }
"""
# What E2B's config.json and generation_config.json say.
E2B = {
    "eos_token_id": [1, 106],
    "text_config": {"eos_token_id": 1, "bos_token_id": 2, "pad_token_id": 0},
    "vision_config": {"patch_size": 16, "pooling_kernel_size": 3, "default_output_length": 280},
}
E2B_GENERATION = {
    "bos_token_id": 2, "eos_token_id": [1, 106, 50], "pad_token_id": 0,
    "do_sample": True, "top_k": 64, "top_p": 0.95, "temperature": 1.0,
}  # fmt: skip
VOCABULARY = 262144


def files_of_e2b(**changes: Any) -> TextFiles:
    stop = tuple(stop_tokens(E2B_GENERATION, E2B, VOCABULARY, "e2b"))
    values: dict[str, Any] = {
        "tokenizer": TARGET / "tokenizer.json", "chat_template": "{{ tools }}{{ enable_thinking }}<|turn>", "bos": 2,
        "stop": stop, "pad": 0, "sampling": read_sampling(E2B_GENERATION, "e2b"), "vocabulary": VOCABULARY,
        "vision": E2B["vision_config"],
    }  # fmt: skip
    return TextFiles(**values | changes)


def without(message: Any, *fields: str) -> Any:
    for field in fields:
        message.ClearField(field)
    return message


def test_metadata_of_e2b_are_litert_lms_own() -> None:
    expected = text_format.Parse(GOOGLES, LlmMetadata())
    ours = llm_metadata(files_of_e2b(), 4096)
    assert {tuple(stop.token_ids.ids) for stop in ours.stop_tokens} == {
        tuple(stop.token_ids.ids) for stop in expected.stop_tokens
    }
    ours.sampler_params.ClearField("seed")
    # What theirs leave to the runtime, or keep in another file.
    added = ("pad_token", "max_num_tokens", "jinja_prompt_template", "supports_thinking", "min_runtime_version")
    ours = without(ours, "stop_tokens", "supports_function_calling", *added)
    assert ours == without(expected, "stop_tokens")


def test_tokens_that_the_tokenizer_lacks_are_not_named() -> None:
    known = frozenset(CONTROL_TOKENS) - {"<|tool_call>", "<|image>", "<channel|>", '<|"|>', "<audio|>"}
    metadata = llm_metadata(files_of_e2b(known=known), 4096)
    gemma4 = metadata.llm_model_type.gemma4
    assert (gemma4.code_fence_start, gemma4.code_fence_end, gemma4.open_quote) == ("", "<tool_call|>", "")
    assert (gemma4.start_of_image_token.token_str, gemma4.patch_width) == ("", 0)
    assert (gemma4.start_of_audio_token.token_str, gemma4.end_of_audio_token.token_str) == ("<|audio>", "")
    assert not metadata.channels


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        (E2B_GENERATION, E2B, [1, 106, 50]),
        ({}, E2B, [1, 106]),
        ({"eos_token_id": 106}, {"text_config": {"eos_token_id": [1, 7]}}, [106, 1, 7]),
        ({}, {"eos_token_id": 5}, [5]),
        ({"eos_token_id": None}, {"eos_token_id": None, "text_config": {"eos_token_id": 1}}, [1]),
    ],
)
def test_no_stop_token_is_lost(generation: dict, config: dict, expected: list[int]) -> None:
    assert stop_tokens(generation, config, VOCABULARY, "here") == expected


@pytest.mark.parametrize("value", [True, -1, VOCABULARY, 1.0, "1", [1, None, "x"], [[1]]])
def test_what_is_no_token_is_refused(value: Any) -> None:
    with pytest.raises(UserError, match=r"^here: eos_token_id in config.json is .*, expected a token below 262144$"):
        stop_tokens({}, {"eos_token_id": value}, VOCABULARY, "here")


def test_missing_stop_and_start_tokens_are_refused() -> None:
    with pytest.raises(UserError, match=r"no eos_token_id in generation_config.json or config.json"):
        stop_tokens({}, {"text_config": {}}, VOCABULARY, "here")
    with pytest.raises(UserError, match=r"bos_token_id .* is missing"):
        single_token("bos_token_id", {}, {}, VOCABULARY, "here")
    assert single_token("pad_token_id", {}, {"text_config": {"pad_token_id": 3}}, VOCABULARY, "here", default=0) == 3


@pytest.mark.parametrize(
    "generation",
    [{}, {"do_sample": True}, {"do_sample": True, "top_p": 0.9}, {"top_k": 7}, {"temperature": 0.7, "top_k": None}],
)
def test_sampling_is_what_transformers_reads(generation: dict, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    theirs = GenerationConfig.from_pretrained(tmp_path)
    default = {"do_sample": False, "top_k": 50, "top_p": 1.0, "temperature": 1.0}  # Of `generate`, for what is None.
    expected = {key: value if getattr(theirs, key) is None else getattr(theirs, key) for key, value in default.items()}
    assert read_sampling(generation, "here") == Sampling(**expected)


@pytest.mark.parametrize("outer", [{}, {"do_sample": True, "top_k": 7}])
@pytest.mark.parametrize("inner", [{}, {"do_sample": True, "top_k": 9, "temperature": 0.5}])
def test_sampling_settings_in_the_model_config_mean_nothing_as_in_transformers(
    outer: dict, inner: dict, tmp_path: Path
) -> None:
    config = json.loads((TARGET / "config.json").read_text())
    config |= outer
    config["text_config"] |= inner
    (tmp_path / "config.json").write_text(json.dumps(config))
    theirs = GenerationConfig.from_model_config(AutoConfig.from_pretrained(tmp_path))
    default = {"do_sample": False, "top_k": 50, "top_p": 1.0, "temperature": 1.0}
    expected = {key: value if getattr(theirs, key) is None else getattr(theirs, key) for key, value in default.items()}
    assert read_sampling({}, "here") == Sampling(**expected)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": 0, "do_sample": True}, "temperature is 0, expected a number of at least 1e-06"),
        ({"temperature": -1.0}, "is -1.0"),
        ({"temperature": "1"}, "is '1'"),
        ({"top_p": 1.5}, "is 1.5, expected a number above 0 and at most 1"),
        ({"top_p": True}, "is true"),
        ({"top_k": -1}, "is -1, expected a whole number"),
        ({"top_k": 1.5}, "is 1.5"),
        ({"top_k": True}, "is true"),
        ({"do_sample": "yes"}, "is 'yes', expected true or false"),
    ],
)
def test_wrong_sampling_settings_are_refused_in_one_line(settings: dict, problem: str) -> None:
    with pytest.raises(UserError, match=f"^here: .*{problem}") as raised:
        read_sampling(settings, "here")
    assert "\n" not in str(raised.value)


def test_greedy_and_unlimited_sampling_read_so_to_the_runtime() -> None:
    greedy = llm_metadata(files_of_e2b(sampling=Sampling(top_k=64, temperature=0.3)), 64).sampler_params
    assert (greedy.k, greedy.p, greedy.temperature) == (1, 1.0, 1.0)
    everything = llm_metadata(files_of_e2b(sampling=Sampling(do_sample=True, top_k=0)), 64).sampler_params
    assert everything.k == VOCABULARY


CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
GEMMA3 = "{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content }}<end_of_turn>\n{% endfor %}"
CALLING = (
    "{% for m in messages %}<|turn>{{ m.role }}\n{{ m.content }}{% if m.tool_calls %}<|tool_call>"
    "{{ m.tool_calls[0].function.arguments.argument }}<tool_call|><|tool_response>{% else %}<turn|>\n"
    "{% endif %}{% endfor %}"
)


def numbered(*tokens: str) -> Any:
    """A tokenizer that has only `tokens`, numbered from 10 on, and characters."""
    ids = {token: number for number, token in enumerate(tokens, 10)}
    return SimpleNamespace(encode=lambda text: [ids[text]] if text in ids else [0] * (len(text) + 1))


@pytest.mark.parametrize(
    ("template", "tokens", "token"),
    [
        (CHATML, ("<|im_start|>", "<|im_end|>"), 11),
        (GEMMA3, ("<start_of_turn>", "<end_of_turn>"), 11),
        (CALLING, ("<|turn>", "<turn|>"), 11),
    ],
)
def test_a_turn_that_no_stop_token_ends_is_warned_of(template: str, tokens: tuple[str, ...], token: int) -> None:
    (warning,) = unstopped(template, numbered(*tokens), (1,))
    assert f"{tokens[1]} (token {token}), which is no stop token" in warning
    assert unstopped(template, numbered(*tokens), (1, token)) == ()
    assert unstopped(template, numbered(), (1,)) == ()  # A tokenizer without the token cannot say it either.


def test_a_tool_call_that_no_stop_token_ends_is_warned_of() -> None:
    tokenizer = numbered("<|turn>", "<turn|>", "<tool_call|>", "<|tool_response>")
    (warning,) = unstopped(CALLING, tokenizer, (11,))
    assert "waits for a tool's response with <|tool_response> (token 13)" in warning
    assert unstopped(CALLING, tokenizer, (11, 13)) == ()


def test_templates_that_render_nothing_of_the_kind_are_not_warned_of() -> None:
    tokenizer = HuggingFaceTokenizer((TARGET / "tokenizer.json").read_bytes())
    for template in ("{{ raise_exception('no') }}", "nothing", "{{ messages[0].content }}", "{{ 1 / 0 }}"):
        assert unstopped(template, tokenizer, ()) == ()


def test_the_small_target_needs_no_warning() -> None:
    checkpoint = Checkpoint(str(TARGET))
    files = read_text_files(checkpoint, read_target_config(checkpoint.config, "config.json"))
    assert (files.stop, files.warnings, files.sampling) == ((1, 5), (), Sampling())
    assert files.known == frozenset(CONTROL_TOKENS) - {"<|image>", "<image|>", "<|audio>", "<audio|>"}
