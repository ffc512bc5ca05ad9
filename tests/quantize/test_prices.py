"""What is said of measured numbers: their errors, what a recipe is known to cost, and the mix that they suggest."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gemma_mtp.export.checkpoint.pair import open_pair
from gemma_mtp.export.compare.estimates import Ratio, ratio
from gemma_mtp.export.compare.measure import Price
from gemma_mtp.export.compare.parts import Part, parts_of, stored_alone
from gemma_mtp.export.compare.suggest import Bounds, Mix, Trial, smallest, within
from gemma_mtp.export.graphs.plan import plan_models
from gemma_mtp.export.models.kv_cache import kv_signature
from gemma_mtp.export.options import resolve_options
from gemma_mtp.quantize.formats import INT8, storage
from gemma_mtp.quantize.price import MAX_ACCEPTANCE_LOSS, MAX_KL, KnownPrice
from gemma_mtp.quantize.recipes import EVERYWHERE, read_recipe
from gemma_mtp.quantize.writing import as_toml
from gemma_mtp.runtime.errors import UserError
from tests.conftest import DRAFTER, TARGET


def test_standard_error_is_the_spread_over_samples_of_prompts() -> None:
    rng = np.random.default_rng(0)

    def sample() -> tuple[Ratio, Ratio]:
        drafted = rng.integers(20, 80, 60)
        easy = rng.beta(6, 3, 60)  # Of each prompt, for both: what is lost is the same for all.
        accepted, worse = rng.binomial(drafted, easy), rng.binomial(drafted, 0.9 * easy)
        counts = (accepted.tolist(), worse.tolist())
        base, other = (ratio(list(zip(over, drafted.tolist(), strict=True))) for over in counts)
        return base, other

    samples = [sample() for _ in range(300)]
    shares = [base.estimate for base, _ in samples]
    losses = [other.lost(base) for base, other in samples]
    for estimates in (shares, losses):
        values = [estimate.value for estimate in estimates if estimate]
        errors = [estimate.error for estimate in estimates if estimate and estimate.error]
        assert len(errors) == len(samples)
        assert np.std(values) == pytest.approx(np.mean(errors), rel=0.15)
    assert np.mean([loss.value for loss in losses if loss]) == pytest.approx(0.1, abs=0.01)


def test_one_prompt_says_nothing_of_its_error() -> None:
    alone = Ratio((3,), (4,))
    assert alone.estimate is not None
    assert (alone.estimate.value, alone.estimate.error) == (0.75, None)
    assert alone.estimate.shown(1, percent=True) == "75.0 %"
    assert Ratio((0,), (0,)).estimate is None
    assert Ratio((0,), (4,)).lost(alone) is None


def test_recipes_have_a_price_and_costly_ones_a_warning() -> None:
    warned = {name for name in EVERYWHERE if (price := read_recipe(name).price) and price.warning(name)}
    assert warned == {"int4", "mobile"}
    mixed = read_recipe("mixed").price
    assert mixed is not None
    assert mixed.kl <= MAX_KL
    assert mixed.acceptance_loss <= MAX_ACCEPTANCE_LOSS


@pytest.mark.parametrize(
    ("price", "said"),
    [
        ("price = 3", "price is 3, expected a table"),
        ("price = {pair = 'x', kl = -1, acceptance_loss = 0}", "kl is -1"),
        ("price = {pair = 'x', kl = 1}", "acceptance_loss is missing"),
        ("price = {pair = 'x', kls = 1}", "'kls' is no key of a price; did you mean kl?"),
    ],
)
def test_price_that_is_none(price: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"schema = 1\n{price}\n[[rules]]\ntensors = '*'\nformat = 'int8'\n")
    with pytest.raises(UserError) as error:
        read_recipe(str(path))
    assert said in str(error.value)


@pytest.mark.parametrize("name", EVERYWHERE)
def test_written_recipe_is_read_as_it_was(name: str, tmp_path: Path) -> None:
    recipe = read_recipe(name)
    path = tmp_path / f"{name}.toml"
    path.write_text(as_toml(recipe))
    again = read_recipe(str(path))
    assert [replace(rule, place="") for rule in again.rules] == [replace(rule, place="") for rule in recipe.rules]
    assert replace(again, rules=()) == replace(recipe, rules=())


@pytest.fixture(scope="module")
def models():
    pair = open_pair(str(TARGET), str(DRAFTER))
    options = resolve_options(pair.target_config, context_length=128)
    return plan_models(pair, kv_signature(pair.target_config, pair.drafter_config, 137, "fp32"), options)


def test_parts_hold_every_tensor_once(models) -> None:
    parts = parts_of(models)
    assert len(parts) == 9
    everywhere = Mix(()).recipe(parts)
    assert {rule.stored_as for rule in everywhere.choose(_names(models)).values()} == {INT8}
    for part in parts:
        size = [stored_alone(models, part, storage(name), ("cpu", "gpu"))[1] for name in ("int8", "int4", "int2")]
        assert size[0] > size[1] > size[2] > 0
    assert not any(
        rule.takes(name, pattern)
        for one, other in itertools.combinations(parts, 2)
        for name in _names(models)
        if any(one.rule(INT8).takes(name, pattern) for pattern in one.tensors)
        for rule in (other.rule(INT8),)
        for pattern in other.tensors
    )


def _names(models):
    from gemma_mtp.export.graphs.storage import tensor_name

    found = [
        tensor_name(model, plan.config, weight) for model, plan in models.items() for weight in plan.weights.values()
    ]
    return [name for name in found if name]


PARTS = [Part(name, (name,)) for name in ("mlp", "table", "head")]
TRIALS = [
    Trial(part, storage(name), saved, kl, lost)
    for part, name, saved, kl, lost in [
        (PARTS[0], "int4", 800, 0.015, 0.01), (PARTS[0], "int2", 1200, 0.3, 0.2), (PARTS[1], "int4", 1100, 0.003, 0.0),
        (PARTS[1], "int2", 1600, 0.06, 0.01), (PARTS[2], "int4", 400, 0.018, 0.04),
    ]
]  # fmt: skip
BOUNDS = Bounds(0.02, 0.05)


def price(kl: float, accepted: float) -> Price:
    return Price("", {}, 0, 1.0, Ratio((kl, kl), (1, 1)), 1.0, Ratio((accepted, accepted), (1, 1)), 1.0, None, {})


def chosen(mix: Mix | None) -> dict[str, str]:
    assert mix is not None
    return {trial.part.name: trial.stored_as.name for trial in mix.trials}


def test_smallest_mix_whose_costs_add_up_to_no_more_than_the_bounds() -> None:
    assert chosen(smallest(PARTS, TRIALS, BOUNDS, [])) == {"mlp": "int4", "table": "int4"}
    assert chosen(smallest(PARTS, TRIALS, Bounds(0.08, 0.05), [])) == {"mlp": "int4", "table": "int2"}
    assert chosen(smallest(PARTS, TRIALS, Bounds(math.inf, 0.005), [])) == {"table": "int4"}


def test_what_a_bundle_costs_beyond_its_sums_is_counted_with_the_next() -> None:
    first = smallest(PARTS, TRIALS, BOUNDS, [])
    assert first is not None
    # 0.004 nats more than the sums: each alone still fits, and the table saves more.
    second = smallest(PARTS, TRIALS, BOUNDS, [(first, price(0.022, 0.6))])
    assert chosen(second) == {"table": "int4"}
    assert second is not None
    # With 0.018 nats more, none does.
    assert chosen(smallest(PARTS, TRIALS, BOUNDS, [(first, price(0.036, 0.6))])) == {}
    # Its drafts are not taken: neither this nor anything that lowers it further is tried again.
    third = smallest(PARTS, TRIALS, BOUNDS, [(first, price(0.022, 0.6)), (second, price(0.007, 0.3))])
    assert chosen(third) == {"mlp": "int4"}
    nothing = [(Mix(()), price(0.05, 0.6))]
    assert smallest(PARTS, TRIALS, BOUNDS, nothing) is None


def test_bounds_hold_for_measured_numbers() -> None:
    base = price(0.0, 0.6)
    assert within(price(0.02, 0.571), base, BOUNDS)
    assert not within(price(0.021, 0.6), base, BOUNDS)
    assert not within(price(0.01, 0.56), base, BOUNDS)


def test_known_price_is_said_in_one_line() -> None:
    line = KnownPrice("a pair", 0.0744, 0.08).warning("int4")
    assert line is not None
    assert "int4 cost a pair 0.074 nats KL and 8%" in line
    assert "\n" not in line
