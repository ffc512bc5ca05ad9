"""Parts of the Python runtime: caches that are never copied, streamed text, prompts, the benchmark's arithmetic."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.tensor_buffer import TensorBuffer
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_mtp.runtime.benchmark import StepCosts, benchmark, break_even
from gemma_mtp.runtime.decoding.acceptance import GreedyRule
from gemma_mtp.runtime.decoding.generation import GenerationOptions
from gemma_mtp.runtime.decoding.speculative import speculative_round
from gemma_mtp.runtime.errors import UserError
from gemma_mtp.runtime.model import Model, load
from gemma_mtp.runtime.text.chat_template import render_chat
from gemma_mtp.runtime.text.prompts import Prompt, read_prompts
from gemma_mtp.runtime.text.stream import TextStream
from gemma_mtp.runtime.text.tokenizer import read_tokenizer
from tests.conftest import TARGET

TOOL = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def model(small_int8: Path) -> Model:
    return load(small_int8 / "model.litertlm", threads=2)


@pytest.fixture(scope="module")
def text_tokenizer():
    return read_tokenizer("json", (TARGET / "tokenizer.json").read_bytes(), "here")


def test_no_cache_passes_through_python(model: Model, prompts, monkeypatch: pytest.MonkeyPatch) -> None:
    """LiteRT reads and writes the same cache buffers in every step of target and drafter; Python moves none of them."""
    caches = {id(buffer) for buffer in model.engine.caches.values()}
    cache_bytes = sum(np.prod(shape) * 4 for shape, _ in model.bundle.contract.decode.cache_inputs.values())
    moved: Counter[str] = Counter()
    plain = {name: getattr(TensorBuffer, name) for name in ("read", "write")}

    def spy(name: str):
        def call(buffer: TensorBuffer, *arguments):
            assert id(buffer) not in caches
            result = plain[name](buffer, *arguments)
            moved[name] += (result if name == "read" else arguments[0]).nbytes
            return result

        return call

    handed: list[tuple[str, set[int], set[int]]] = []
    for step in (*model.engine._graphs.values(), model.engine._drafter):
        assert step

        def run(inputs, read, written, step=step, run=step.run):
            handed.append((step.info.name, {id(b) for b in read.values()}, {id(b) for b in written.values()}))
            run(inputs, read, written)

        monkeypatch.setattr(step, "run", run)
    for name in plain:
        monkeypatch.setattr(TensorBuffer, name, spy(name))
    model.reset()
    answer = model.stream_text(prompts[10].text, GenerationOptions(max_tokens=40)).finish()

    assert {name for name, _, _ in handed} >= {"prefill_32", "decode", "verify", "mtp_drafter"}
    for name, read, written in handed:
        assert read == caches
        assert written == (set() if name == "mtp_drafter" else caches)
    # Prefill aside, what a step moves is far less than the caches.
    steps = len(handed)
    assert moved.total() / steps < cache_bytes / 4
    assert answer.statistics.rounds > 5


def test_steps_write_into_the_shared_buffers(model: Model) -> None:
    model.reset()
    name = "kv_cache_k_0"
    shape, dtype = model.bundle.contract.decode.cache_inputs[name]

    def rows() -> np.ndarray:
        return model.engine.caches[name].read(int(np.prod(shape)), np.dtype(dtype)).reshape(shape)[0, 0]

    before = rows()
    model.engine.decode(7, 100)
    after = rows()
    changed = np.flatnonzero((before != after).any(axis=-1))
    assert changed.tolist() == [100]


@settings(deadline=None, max_examples=25)
@given(data=st.data(), proposer=st.sampled_from(["random", "wrong", "right"]))
def test_text_is_the_targets_own_whatever_the_drafter_says(
    model: Model, text_tokenizer, data: st.DataObject, proposer: str
) -> None:
    """The real target with a drafter replaced by chance, by an adversary, or by the target's own answer."""
    prompt, length = text_tokenizer.encode("<bos>def area(self):\n"), 16
    model.reset()
    own = model.stream_tokens(prompt, GenerationOptions(mtp=False, max_tokens=length)).finish().tokens
    model.reset()
    engine, vocabulary = model.engine, model.bundle.contract.vocabulary
    engine.prefill(prompt[:-1], 0)
    made: list[int] = []

    class Steps:
        verify, decode = engine.verify, engine.decode

        def draft_step(self, token: int, activation: np.ndarray, slot: int) -> tuple[np.ndarray, np.ndarray]:
            at = len(made) + int(activation[0])
            right = own[at] if at < length else 0
            if proposer == "random":
                chosen = data.draw(st.integers(0, vocabulary - 1))
            else:
                chosen = right if proposer == "right" else (right + 1) % vocabulary
            return np.eye(1, vocabulary, chosen)[0], activation + 1

    newest, passes = prompt[-1], 0
    while len(made) < length:
        slot, count = len(prompt) - 1 + len(made), data.draw(st.integers(0, 4))
        result = speculative_round(Steps(), GreedyRule(), newest, slot, np.zeros(1), count)
        made += result.tokens
        newest, passes = result.next_token, passes + 1
        if proposer == "right":
            assert result.accepted == min(count, length - (len(made) - len(result.tokens))) or len(made) >= length
        if proposer == "wrong":
            assert result.accepted == 0
    assert made[:length] == own


@settings(deadline=None, max_examples=200)
@given(text=st.text(max_size=60))
def test_streamed_text_never_shows_half_a_character(text_tokenizer, text: str) -> None:
    tokens = text_tokenizer.encode(text)
    stream = TextStream(text_tokenizer.decode)
    pieces = [stream.push(token) for token in tokens]
    assert "".join([*pieces, stream.finish()]) == text_tokenizer.decode(tokens)
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


def test_streamed_text_comes_as_soon_as_a_character_is_whole(text_tokenizer) -> None:
    stream = TextStream(text_tokenizer.decode)
    shown = [stream.push(token) for token in text_tokenizer.encode("a\U0001f600b")]
    assert "".join(shown) == "a\U0001f600b"  # Nothing waits for the end.
    assert "" in shown  # But a part of the emoji did wait.


@settings(deadline=None, max_examples=200)
@given(text=st.text("ab c\n", max_size=40), stops=st.lists(st.text("ab c", min_size=1, max_size=4), max_size=3))
def test_text_ends_before_the_first_stop_string(text_tokenizer, text: str, stops: list[str]) -> None:
    tokens = text_tokenizer.encode(text)
    stream, pieces = TextStream(text_tokenizer.decode, stops), []
    for token in tokens:
        pieces.append(stream.push(token))
        if stream.stopped:
            break
    shown, whole = "".join([*pieces, stream.finish()]), text_tokenizer.decode(tokens)
    ends = [at for stop in stops if (at := whole.find(stop)) >= 0]
    if ends:
        # A stop string is seen when its last token is there; a longer one may begin earlier, but end later.
        assert stream.stopped
        assert not any(stop in shown for stop in stops)
        assert whole.startswith(shown)
    else:
        assert shown == whole


def test_chat_template_is_rendered_as_transformers_does(model: Model) -> None:
    from transformers import AutoTokenizer

    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi  "},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": [{"type": "text", "text": "And?"}]},
    ]
    expected = AutoTokenizer.from_pretrained(TARGET).apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    assert render_chat(model.bundle.rules.chat_template, messages, "<bos>") == expected


@pytest.mark.parametrize(
    ("template", "reason"),
    [("", "no chat template"), ("{{ raise_exception('no tools') }}", "no tools"), ("{%", "chat")],
)
def test_chat_template_that_fails_says_why(template: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        render_chat(template, [{"role": "user", "content": "a"}], "")


def test_prompts_are_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    chat = [{"role": "user", "content": "b"}]
    path.write_text("\n".join(map(json.dumps, [{"prompt": "a"}, {"messages": chat}, {"text": "c"}])) + "\n\n")
    assert read_prompts(path) == [
        Prompt(messages=({"role": "user", "content": "a"},)),
        Prompt(messages=tuple(chat)),
        Prompt(text="c"),
    ]


def test_what_a_prompts_file_says_reaches_the_template(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    line = {"prompt": "a", "tools": [TOOL], "enable_thinking": True, "chat_template_kwargs": {"style": "short"}}
    path.write_text(json.dumps(line))
    (prompt,) = read_prompts(path)
    assert prompt.variables == {"tools": [TOOL], "enable_thinking": True, "style": "short"}
    template = "{{ tools[0]['function']['name'] }} {{ enable_thinking }} {{ style }}: {{ messages[0]['content'] }}"
    assert render_chat(template, prompt.messages, "", prompt.variables).startswith("get_time ")
    with pytest.raises(UserError, match="reads no variable style"):
        render_chat("{{ tools }} {{ enable_thinking }}", prompt.messages, "", prompt.variables)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"prompt": "a", "enable_thnking": True}, "'enable_thnking' is unknown"),
        ({"text": "a", "tools": [TOOL]}, "'tools' is unknown"),
        ({"prompt": "a", "enable_thinking": "yes"}, "expected true or false"),
        ({"prompt": "a", "tools": TOOL}, "tools must be a list"),
        ({"prompt": "a", "tools": [{"name": "get_time"}]}, "tools must be a list"),
        ({"prompt": "a", "chat_template_kwargs": {"messages": []}}, "none of messages"),
        ({"messages": [{"role": "assistant", "content": None}]}, "content is null, expected a text"),
    ],
)
def test_prompts_file_that_says_what_nobody_reads_is_refused(line: dict, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps(line))
    with pytest.raises(UserError, match=reason):
        read_prompts(path)


def test_a_message_may_call_a_tool_instead_of_saying_something(tmp_path: Path) -> None:
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "get_time", "arguments": {}}}]}
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"messages": [call]}))
    assert read_prompts(path)[0].messages == (call,)


def test_break_even_is_where_a_round_earns_what_it_costs() -> None:
    assert break_even(4, 5.5) is None
    assert break_even(4, 0.9) == 0.0
    for cost in (1.2, 2.0, 4.9):
        rate = break_even(4, cost)
        assert rate is not None
        assert sum(rate**power for power in range(5)) == pytest.approx(cost)


def test_costs_between_verify_lengths() -> None:
    costs = StepCosts({1: 1.0, 5: 2.0, 9: 4.0}, 0.1)
    assert costs.decode == 1.0
    assert [costs.held_pass(tokens) for tokens in (3, 5, 6)] == [2.0, 2.0, 4.0]
    assert [costs.own_pass(tokens) for tokens in (3, 5, 7)] == [1.5, 2.0, 3.0]


def test_benchmark_measures_every_draft_length(small_lengths: Path, prompts) -> None:
    model = load(small_lengths / "model.litertlm", threads=2)
    options, asked = GenerationOptions(max_tokens=24), [Prompt(text=prompt.text) for prompt in prompts[10:12]]
    report = benchmark(model, asked, options, repetitions=2)
    assert sorted(report.costs.passes) == [1, 3, 5, 9]
    assert [row.draft_tokens for row in report.lengths] == list(range(1, 9))
    assert report.plain.tokens_per_pass == 1
    assert report.longest.drafted > 0
    by_position = report.longest.acceptance_by_position
    assert report.lengths[2].tokens_per_round == pytest.approx(1 + sum(by_position[:3]))
    assert all(row.measured.lowest > 0 and row.expected > 0 for row in report.lengths)
    assert {len(row.measured.values) for row in report.lengths} == {2}
    assert [row.verify_tokens for row in report.lengths] == [3, 3, 5, 5, 9, 9, 9, 9]
    assert json.loads(json.dumps(report.as_dict()))["draft_lengths"][0]["draft_tokens"] == 1
