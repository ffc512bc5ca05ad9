"""What `benchmark` concludes from given measurements."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from gemma_mtp.export.cli.tables.benchmark import advice, print_benchmark
from gemma_mtp.runtime.benchmark import BenchmarkReport, LengthReport, Spread, StepCosts
from gemma_mtp.runtime.decoding.statistics import Statistics


def report(*speedups: tuple[float, ...], expected: float = 1.0, own: float = 1.0) -> BenchmarkReport:
    """Measured speed-ups of 1, 2, ... draft tokens, all of which ran with one verify signature."""
    rows = [
        LengthReport(length, len(speedups) + 1, 2.0, Spread(values), expected, own, 0.5)
        for length, values in enumerate(speedups, 1)
    ]
    plain = Spread((10.0,) * len(speedups[0]))
    return BenchmarkReport(StepCosts({1: 1.0, 5: 2.0}, 0.1), Statistics(), plain, Statistics(), tuple(rows))


def test_spread() -> None:
    spread = Spread((1.5, 0.9, 1.1))
    assert (spread.median, spread.lowest, spread.highest) == (1.1, 0.9, 1.5)


def test_the_fastest_measured_length_is_advised_whatever_was_expected() -> None:
    made = report((1.2, 1.3, 1.25), (1.8, 1.9, 1.85), (1.4, 1.5, 1.45), expected=9.0)
    assert (made.verdict, made.best.draft_tokens, made.rivals) == ("pays", 2, [])
    assert advice(made) == [
        "MTP pays here: export with --num-draft-tokens 2. Measured: 1.85x with 2 draft tokens (1.80 to 1.90)."
    ]


def test_lengths_whose_ranges_meet_are_named() -> None:
    made = report((1.2, 1.3, 1.25), (1.6, 1.9, 1.8), (1.5, 1.7, 1.55))
    assert [row.draft_tokens for row in made.rivals] == [3]
    assert "Noise decides between 2 and 3, whose ranges meet; more prompts (--prompts)" in advice(made)[1]


@pytest.mark.parametrize(
    ("values", "verdict", "said"),
    [
        ((0.95, 1.1, 1.05), "unclear", "Noise decides whether MTP pays here: 1.05x"),
        ((0.7, 0.8, 0.9), "does not pay", "MTP does not pay here: at best 0.80x with 1 draft token (0.70 to 0.90)"),
        ((1.01, 1.2, 1.1), "pays", "MTP pays here"),
    ],
)
def test_plain_decoding_is_a_rival_too(values: tuple[float, ...], verdict: str, said: str) -> None:
    made = report(values, (0.5, 0.5, 0.5))
    assert made.verdict == verdict
    assert advice(made)[0].startswith(said)


def test_one_repetition_shows_no_spread() -> None:
    assert "One repetition shows no spread; give --repetitions 3 or more." in advice(report((1.5,), (1.2,)))


def test_a_length_without_its_own_verify_is_offered_for_measuring() -> None:
    lines = advice(report((1.2, 1.2), (1.8, 1.9), (1.4, 1.4), own=2.5))
    assert "export with --verify-lengths 1 to measure it" in lines[-1]


def test_a_pass_costs_what_its_tile_of_rows_costs() -> None:
    costs = StepCosts({1: 1.0, 4: 1.1, 5: 2.0, 8: 2.1}, 0.1)
    assert [costs.own_pass(tokens) for tokens in (1, 2, 4, 5, 6, 8)] == [1.0, 1.1, 1.1, 2.0, 2.1, 2.1]
    assert costs.tile_step == (4, 5, pytest.approx(2.0 / 1.1))
    assert StepCosts({1: 1.0, 5: 3.0}, 0.1).own_pass(3) == 2.0
    assert StepCosts({1: 1.0, 5: 3.0}, 0.1).tile_step is None


def test_the_step_between_tiles_is_shown() -> None:
    made = report((1.2, 1.2), (1.8, 1.9), (1.4, 1.4))
    stepped = replace(made, costs=StepCosts({1: 1.0, 4: 1.1, 5: 2.0}, 0.1))
    assert "A verify of 5 tokens costs 1.82 times one of 4" in " ".join(advice(stepped))
    assert stepped.as_dict()["second_tile_costs"] == pytest.approx(2.0 / 1.1)


def test_table_fits_a_terminal_of_80_columns() -> None:
    console = Console(file=io.StringIO(), width=80)
    with console.capture() as captured:
        print_benchmark(report((1.2, 1.2), (1.8, 1.9), (1.4, 1.4)), console)
    assert "1.80-1.90" in captured.get()
    assert "…" not in captured.get()


def test_json_carries_all_of_it() -> None:
    about = json.loads(json.dumps(report((1.2, 1.4), (1.8, 1.9)).as_dict()))
    assert about["repetitions"] == 2
    assert about["draft_lengths"][0]["measured_speedup"] == {
        "median": pytest.approx(1.3), "lowest": 1.2, "highest": 1.4, "values": [1.2, 1.4]
    }  # fmt: skip
    assert (about["verdict"], about["best_draft_tokens"], about["as_good_within_noise"]) == ("pays", 2, [])
