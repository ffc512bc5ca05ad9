"""A bundle that this project did not write runs as it does on stock LiteRT-LM."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemma_mtp.runtime.decoding.generation import GenerationOptions
from gemma_mtp.runtime.model import Model, load
from gemma_mtp.runtime.stock import run_stock
from tests.conftest import TARGET
from tests.support import foreign

PROMPTS = ["import os", "def add(a, b):\n    return a + b\n\n", "x", "for i in range(10):\n    print(i)\n" * 2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("foreign")
    return foreign.pack(foreign.foreign_models(folder), TARGET / "tokenizer.json", folder / "other.litertlm")


@pytest.fixture(scope="module")
def model(bundle: Path) -> Model:
    return load(bundle, threads=1)


def test_contract_is_learned_from_the_bundle(model: Model) -> None:
    contract = model.bundle.contract
    assert contract.draft_lengths == (foreign.DRAFT_TOKENS,)
    assert [step.tokens for step in contract.prefills] == [foreign.PREFILL]
    assert (contract.slots, contract.hidden, contract.vocabulary) == (foreign.SLOTS, foreign.HIDDEN, foreign.VOCABULARY)
    assert contract.per_layer is None
    assert model.bundle.rules.context_length == foreign.CONTEXT
    assert model.bundle.tokenizer.decode(model.bundle.rules.start) == "<bos>"


def test_text_equals_stock_litert_lm_with_and_without_mtp(bundle: Path, model: Model) -> None:
    plain, speculative = (run_stock(bundle, PROMPTS, speculative=mtp) for mtp in (False, True))
    accepted = rejected = 0
    for prompt, expected, drafted in zip(PROMPTS, plain.texts, speculative.texts, strict=True):
        off = model.stream_text(prompt, GenerationOptions(mtp=False)).finish()
        on = model.stream_text(prompt).finish()
        assert off.text == on.text == expected
        assert drafted.startswith(expected)
        accepted += on.statistics.accepted
        rejected += on.statistics.drafted - on.statistics.accepted
    assert min(accepted, rejected) > 10
