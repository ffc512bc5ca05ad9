"""The Python runtime against stock LiteRT-LM and transformers: texts, drafted tokens, the context's end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gemma_mtp.runtime.decoding.generation import Generation, GenerationOptions
from gemma_mtp.runtime.model import Conversation, Model, load
from gemma_mtp.runtime.parity.oracle.reference import speculate
from tests.conftest import CONTEXT, DRAFT_TOKENS, STOP, TO_THE_END, BundleOf

OFF, ON = GenerationOptions(mtp=False), GenerationOptions()


@pytest.fixture(scope="module")
def model(bundle_of: BundleOf) -> Callable[[str], Model]:
    """The bundle of a fixture's export, loaded once."""
    loaded: dict[str, Model] = {}

    def get(name: str) -> Model:
        if name not in loaded:
            loaded[name] = load(bundle_of(name) / "model.litertlm", threads=2)
        return loaded[name]

    return get


@pytest.fixture(scope="module")
def answers(model, prompts):
    """All prompts' answers `(off, on)` by the Python runtime."""
    made: dict[str, tuple[list[Generation], list[Generation]]] = {}

    def run(name: str) -> tuple[list[Generation], list[Generation]]:
        if name not in made:
            loaded = model(name)
            off, on = ([loaded.stream_text(p.text, options).finish() for p in prompts] for options in (OFF, ON))
            made[name] = (off, on)
        return made[name]

    return run


@pytest.mark.parametrize("weights", ["small_fp32", "small_int8"])
def test_text_equals_stock_litert_lm(weights: str, answers, stock_runs) -> None:
    off, on = answers(weights)
    plain, _ = stock_runs(weights)  # With MTP, LiteRT-LM goes past the context's end; this runtime does not.
    assert [answer.text for answer in off] == list(plain.texts)
    assert [answer.text for answer in on] == list(plain.texts)
    assert [answer.tokens for answer in on] == [answer.tokens for answer in off]


def test_float_tokens_equal_transformers(answers, prompts, greedy) -> None:
    for index, (prompt, expected) in enumerate(zip(prompts, greedy, strict=True)):
        within = expected[: CONTEXT - len(prompt.tokens)]
        for run in answers("small_fp32"):
            tokens = run[index].tokens
            assert (tokens if index < TO_THE_END else tokens[: len(within)]) == within


def test_drafts_of_every_round_equal_the_reference(answers, prompts, torch_pair) -> None:
    compared, beginning = 0, 48
    for prompt, answer in zip(prompts, answers("small_fp32")[1], strict=True):
        assert answer.rounds[0].slot == len(prompt.tokens) - 1
        assert not answer.rounds[0].round.drafted  # The first token is a plain decode.
        tokens = answer.tokens[:beginning]
        reference = speculate(*torch_pair, prompt.tokens, tokens, DRAFT_TOKENS)
        mine = {round_.slot: round_.round.drafted for round_ in answer.rounds[1:]}
        for expected in reference.rounds:
            # At the context's end there is room for fewer drafts.
            assert mine[expected.slot] == expected.drafted[: len(mine[expected.slot])]
            compared += len(mine[expected.slot])
        before = [slot for slot in mine if slot < len(prompt.tokens) + len(tokens) - 1]
        assert before == [expected.slot for expected in reference.rounds]
    assert compared > 2_000


def test_acceptance_equals_stock_litert_lm(answers, stock_runs) -> None:
    """The runtime reports one figure over all prompts; it counts the context's end otherwise."""
    on = answers("small_int8")[1]
    drafted = sum(answer.statistics.drafted for answer in on)
    accepted = sum(answer.statistics.accepted for answer in on)
    assert accepted / drafted == pytest.approx(stock_runs("small_int8")[1].acceptance_rate, abs=0.02)


@pytest.mark.parametrize("mtp", [False, True])
def test_context_is_filled_to_its_last_token(mtp: bool, answers, prompts) -> None:
    ended = [(p, a) for p, a in zip(prompts, answers("small_fp32")[mtp], strict=True) if a.tokens[-1] not in STOP]
    assert len(ended) >= 4
    for prompt, answer in ended:
        assert answer.finish_reason == "context"
        assert len(prompt.tokens) + len(answer.tokens) == CONTEXT


@pytest.mark.parametrize("draft_tokens", range(1, 9))
def test_every_draft_length_gives_the_same_tokens(draft_tokens: int, model, answers, prompts) -> None:
    options = GenerationOptions(draft_tokens=draft_tokens)
    for index in [0, 1, 10, 11, 12, 13]:  # The first ones nearly fill the context.
        answer = model("small_lengths").stream_text(prompts[index].text, options).finish()
        assert answer.tokens == answers("small_int8")[0][index].tokens
        assert max(len(round_.round.drafted) for round_ in answer.rounds) <= draft_tokens


@pytest.mark.parametrize(
    "options", [GenerationOptions(schedule="heuristic"), GenerationOptions(confidence=0.7)], ids=["heuristic", "sure"]
)
def test_other_ways_to_draft_give_the_same_tokens(options: GenerationOptions, model, answers, prompts) -> None:
    lengths: set[int] = set()
    for index in range(0, 40, 4):
        answer = model("small_lengths").stream_text(prompts[index].text, options).finish()
        assert answer.tokens == answers("small_int8")[0][index].tokens
        lengths |= {len(round_.round.drafted) for round_ in answer.rounds}
    assert len(lengths) > 3


def test_confidence_raises_acceptance(model, prompts) -> None:
    rates: list[float] = []
    for confidence in (0.0, 0.8):
        drafted = accepted = 0
        for prompt in prompts[10:20]:
            options = GenerationOptions(confidence=confidence, max_tokens=48)
            statistics = model("small_int8").stream_text(prompt.text, options).finish().statistics
            drafted, accepted = drafted + statistics.drafted, accepted + statistics.accepted
        rates.append(accepted / drafted)
    assert rates[1] > rates[0] + 0.05


def test_folder_of_models_gives_the_same_text(small_fp32: Path, answers, prompts) -> None:
    model = load(small_fp32, threads=2)
    for index in (7, 8):
        assert model.stream_text(prompts[index].text).finish().tokens == answers("small_fp32")[1][index].tokens


def test_turns_reuse_the_cache_and_change_nothing(model, small_fp32: Path) -> None:
    options = GenerationOptions(max_tokens=24)
    conversation = Conversation(model("small_fp32"), options)
    turns = [conversation.send(text) for text in ("def area(self):", "def name(self):\n    return", "class A:")]
    assert [turn.statistics.reused_tokens > 10 for turn in turns] == [False, True, True]

    messages = [{"role": "user", "content": "def area(self):"}]
    for turn, text in zip(turns, ("def name(self):\n    return", "class A:", ""), strict=True):
        fresh = load(small_fp32, threads=2).generate(messages, options)
        assert fresh.statistics.reused_tokens == 0
        assert turn.tokens == fresh.tokens
        messages += [{"role": "assistant", "content": fresh.text}, {"role": "user", "content": text}]


def test_prompt_that_goes_another_way_rolls_back(model, answers, prompts) -> None:
    loaded = model("small_fp32")
    first, second = prompts[10], prompts[11]
    shared = first.tokens[: len(first.tokens) // 2]
    loaded.stream_tokens(first.tokens).finish()
    mixed = loaded.stream_tokens(shared + second.tokens[1:20], GenerationOptions(max_tokens=20)).finish()
    assert mixed.statistics.reused_tokens >= len(shared)
    loaded.reset()
    fresh = loaded.stream_tokens(shared + second.tokens[1:20], GenerationOptions(max_tokens=20)).finish()
    assert fresh.statistics.reused_tokens == 0
    assert mixed.tokens == fresh.tokens


def test_cancelled_answer_is_a_beginning_and_leaves_the_model_usable(model, answers, prompts) -> None:
    loaded, whole = model("small_fp32"), answers("small_fp32")[1][8]
    cancelled = loaded.stream_text(prompts[8].text)
    for number, _ in enumerate(cancelled):
        if number == 3:
            cancelled.cancel()
    assert cancelled.finish_reason == "cancelled"
    assert 0 < len(cancelled.tokens) < len(whole.tokens)
    assert whole.text.startswith(cancelled.text)
    abandoned = loaded.stream_text(prompts[8].text)
    next(iter(abandoned))
    del abandoned
    assert loaded.stream_text(prompts[8].text).finish().tokens == whole.tokens


def test_answer_that_another_has_overtaken_says_so(model, prompts) -> None:
    loaded = model("small_fp32")
    overtaken = iter(loaded.stream_text(prompts[8].text))
    next(overtaken)
    loaded.stream_text(prompts[9].text, GenerationOptions(max_tokens=2)).finish()
    with pytest.raises(RuntimeError, match="another answer was begun"):
        list(overtaken)


@pytest.mark.parametrize("limit", [1, 2, 5, 6])
def test_max_tokens_and_stop_strings_end_early(limit: int, model, answers, prompts) -> None:
    whole = answers("small_fp32")[1][8]
    cut = model("small_fp32").stream_text(prompts[8].text, GenerationOptions(max_tokens=limit)).finish()
    assert cut.tokens == whole.tokens[:limit]
    assert cut.finish_reason == "max_tokens"
    stop = whole.text[limit * 4 : limit * 4 + 3]
    stopped = model("small_fp32").stream_text(prompts[8].text, GenerationOptions(stop_strings=(stop,))).finish()
    assert stopped.text == whole.text[: whole.text.index(stop)]
    assert stopped.finish_reason == "stop_string"
