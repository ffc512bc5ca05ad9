"""The acceptance rules: sampling with drafts is distributed as without, and greedy output is the target's own."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from gemma_mtp.runtime.decoding.acceptance import AcceptanceRule, Draft, GreedyRule, SamplingRule
from gemma_mtp.runtime.decoding.engine import TargetRows
from gemma_mtp.runtime.decoding.sampling import Distribution, SamplingOptions, confidence, distribution
from gemma_mtp.runtime.decoding.schedules import HeuristicSchedule
from gemma_mtp.runtime.decoding.speculative import speculative_round

VOCABULARY, LENGTH, DRAWS = 6, 3, 10_000
PLAIN = SamplingOptions(temperature=1.0)


class Toy:
    """A target whose logits depend on the last two tokens, and a drafter that knows the last token only.

    `cache` holds what was run by slot, stale rows too; a step that looked beyond its own slot would read those.
    """

    def __init__(self, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.target = random.normal(scale=1.5, size=(VOCABULARY, VOCABULARY, VOCABULARY))
        self.drafter = self.target.mean(axis=0) + random.normal(scale=0.7, size=(VOCABULARY, VOCABULARY))
        self.cache: list[int] = [0, 0]

    def _rows(self, tokens: Sequence[int], slot: int) -> TargetRows:
        self.cache[slot : slot + len(tokens)] = list(tokens)
        logits = [self.target[self.cache[at - 1], self.cache[at]] for at in range(slot, slot + len(tokens))]
        return TargetRows(np.array(logits), np.zeros((len(tokens), 1)))

    def verify(self, tokens: list[int], slot: int) -> TargetRows:
        return self._rows(tokens, slot)

    def decode(self, token: int, slot: int) -> TargetRows:
        return self._rows([token], slot)

    def draft_step(self, token: int, activation: np.ndarray, slot: int) -> tuple[np.ndarray, np.ndarray]:
        return self.drafter[token], activation


def produce(toy: Toy, rule: AcceptanceRule, length: int, count: int | Callable[[], int], threshold: float = 0.0):
    """`length` tokens after [0, 0] by speculative rounds."""
    toy.cache = [0]
    tokens, newest, activation = [], 0, np.zeros(1)
    while len(tokens) < length:
        drafts = count() if callable(count) else count
        result = speculative_round(toy, rule, newest, 1 + len(tokens), activation, drafts, threshold)
        tokens += result.tokens
        newest, activation = result.next_token, result.activation
    return tuple(tokens[:length])


def exact(toy: Toy, options: SamplingOptions) -> dict[tuple[int, ...], float]:
    """Probability of every continuation of [0, 0], by the product of the filtered distributions."""
    probabilities: dict[tuple[int, ...], float] = {}
    for tokens in itertools.product(range(VOCABULARY), repeat=LENGTH):
        context, probability = (0, 0), 1.0
        for token in tokens:
            probability *= float(distribution(toy.target[context], options).of(token))
            context = (context[1], token)
        probabilities[tokens] = probability
    return probabilities


def p_value(counts: Counter[tuple[int, ...]], expected: dict[tuple[int, ...], float]) -> float:
    """Chi-squared test of `counts` against `expected`; cells under five expected draws are taken together."""
    total = counts.total()
    assert not [tokens for tokens in counts if expected[tokens] == 0]
    large = [tokens for tokens, probability in expected.items() if probability * total >= 5]
    seen, hoped = [counts[t] for t in large], [expected[t] * total for t in large]
    if total - sum(hoped) >= 1:
        seen, hoped = [*seen, total - sum(seen)], [*hoped, total - sum(hoped)]
    return float(scipy.stats.chisquare(seen, np.array(hoped) * (sum(seen) / sum(hoped))).pvalue)


def sample(toy: Toy, rule: AcceptanceRule, **how) -> Counter[tuple[int, ...]]:
    return Counter(produce(toy, rule, LENGTH, **how) for _ in range(DRAWS))


@pytest.mark.parametrize(
    ("options", "draft_tokens"),
    [
        (PLAIN, 2),
        (SamplingOptions(temperature=0.6, top_k=4), 1),
        (SamplingOptions(temperature=1.3, top_p=0.85), 4),
        (SamplingOptions(temperature=1.0, top_k=5, top_p=0.9), 3),
    ],
)
def test_sampling_with_drafts_is_distributed_as_without(options: SamplingOptions, draft_tokens: int) -> None:
    toy = Toy()
    assert p_value(sample(toy, SamplingRule(options), count=draft_tokens), exact(toy, options)) > 1e-3


def test_sampling_stays_lossless_with_changing_lengths_and_a_confidence_threshold() -> None:
    toy, lengths = Toy(), itertools.cycle([4, 1, 0, 3])
    counts = sample(toy, SamplingRule(PLAIN), count=lambda: next(lengths), threshold=0.4)
    assert p_value(counts, exact(toy, PLAIN)) > 1e-3


class ResamplesFromTarget(SamplingRule):
    """Wrong: a rejected draft is replaced by a draw from p instead of from max(p - q, 0)."""

    def accept(self, drafts: Sequence[Draft], logits: np.ndarray) -> tuple[int, int]:
        accepted, token = super().accept(drafts, logits)
        return accepted, token if accepted == len(drafts) else self.choose(logits[accepted])


class DraftsTheBest(SamplingRule):
    """Wrong: the draft is the drafter's best token, but is judged as if it were drawn from its distribution."""

    def draft(self, logits: np.ndarray) -> Draft:
        drawn = super().draft(logits)
        assert drawn.drawn_from
        return Draft(int(logits.argmax()), drawn.drawn_from)


class StopsByTheDrawnToken(SamplingRule):
    """Wrong: an unlikely draft is thrown away after it was drawn."""

    def accept(self, drafts: Sequence[Draft], logits: np.ndarray) -> tuple[int, int]:
        sure = list(itertools.takewhile(lambda d: d.drawn_from and d.drawn_from.of(d.token) > 0.3, drafts))
        return super().accept(sure, logits)


@pytest.mark.parametrize("wrong", [ResamplesFromTarget, DraftsTheBest, StopsByTheDrawnToken])
def test_wrong_rules_fail_the_same_test(wrong: type[SamplingRule]) -> None:
    toy = Toy()
    assert p_value(sample(toy, wrong(PLAIN), count=2), exact(toy, PLAIN)) < 1e-6


def test_sampling_is_seeded() -> None:
    first, again, other = ([produce(Toy(), SamplingRule(SamplingOptions(1.0, seed=seed)), 50, 3)] for seed in (7, 7, 8))
    assert first == again != other


@settings(deadline=None, max_examples=150)
@given(data=st.data(), seed=st.integers(0, 1000), proposer=st.sampled_from(["any", "right", "wrong"]))
def test_greedy_output_is_the_targets_own_whatever_is_drafted(data: st.DataObject, seed: int, proposer: str) -> None:
    class Proposes(Toy):
        """Drafts what the test says instead of what a drafter would."""

        def draft_step(self, token: int, activation: np.ndarray, slot: int) -> tuple[np.ndarray, np.ndarray]:
            self.ahead = [*self.cache[:slot], token] if activation[0] == 0 else [*self.ahead, token]
            right = int(self.target[self.ahead[-2], self.ahead[-1]].argmax())
            chosen = {
                "right": lambda: right,
                "wrong": lambda: (right + 1) % VOCABULARY,
                "any": lambda: data.draw(st.integers(0, VOCABULARY - 1)),
            }[proposer]()
            return np.eye(VOCABULARY)[chosen], activation + 1

    toy = Proposes(seed)
    own, context = [], (0, 0)
    for _ in range(24):
        own.append(int(toy.target[context].argmax()))
        context = (context[1], own[-1])
    rounds: list[int] = []

    def count() -> int:
        rounds.append(data.draw(st.integers(0, 5)))
        return rounds[-1]

    assert produce(toy, GreedyRule(), 24, count) == tuple(own)
    if proposer == "right":
        assert sum(rounds[:-1]) + len(rounds[:-1]) < 24  # Every draft was accepted.
    if proposer == "wrong":
        assert len(rounds) == 24  # None was.


@settings(deadline=None, max_examples=200)
@given(
    # Apart by more than rounding: which of two equally probable tokens a filter keeps is nobody's to say.
    logits=st.lists(st.integers(-2000, 2000).map(lambda hundredths: hundredths / 100), min_size=2, unique=True),
    temperature=st.floats(0.2, 3),
    top_k=st.integers(1, 40),
    top_p=st.floats(0.05, 1),
)
def test_filters_equal_transformers(logits: list[float], temperature: float, top_k: int, top_p: float) -> None:
    warpers = LogitsProcessorList(
        [TemperatureLogitsWarper(temperature), TopKLogitsWarper(top_k), TopPLogitsWarper(top_p)]
    )
    expected = torch.softmax(warpers(torch.zeros(1, 1), torch.tensor([logits], dtype=torch.float64)), dim=-1)[0]
    mine = distribution(np.array(logits), SamplingOptions(temperature, top_k, top_p))
    np.testing.assert_allclose(mine.of(np.arange(len(logits))), expected.numpy(), atol=1e-9)


def test_distributions_that_do_not_overlap() -> None:
    p = Distribution(np.array([1, 3]), np.array([0.5, 0.5]))
    assert p.without(Distribution(np.array([0, 9]), np.array([0.5, 0.5]))).probabilities.tolist() == [0.5, 0.5]
    assert p.without(p) is p
    assert p.of(np.array([0, 1, 2, 3, 4])).tolist() == [0, 0.5, 0, 0.5, 0]


def test_confidence_is_the_best_probability() -> None:
    logits = np.array([0.0, 1.0, 3.0], np.float32)
    assert confidence(logits) == pytest.approx(torch.softmax(torch.tensor(logits), -1).max().item())


@given(outcomes=st.lists(st.booleans(), max_size=30), start=st.integers(1, 8))
def test_heuristic_schedule_stays_within_the_bundle(outcomes: list[bool], start: int) -> None:
    schedule, length = HeuristicSchedule(start, 8), start
    for accepted_all in outcomes:
        drafted = schedule.length
        schedule.update(drafted, drafted if accepted_all else drafted - 1)
        length = min(length + 2, 8) if accepted_all else max(length - 1, 1)
        assert schedule.length == length
