"""Passes of many rows multiply scores block by block up to some slots in use, and over all slots at once beyond."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema

from gemma_mtp.export.graphs.slots import blocks
from gemma_mtp.runtime.bundle.flatbuffer import operator_code, parse
from gemma_mtp.runtime.stock import run_stock
from tests.conftest import CONTEXT, WINDOW, Exports, HeldOutPrompt
from tests.support.graph_runner import GraphRunner

# Blocks have as many slots as the window. Verify's 20 rows (five tokens of four heads) take two of them in turns.
TURNS = 2
SHORT = 150


@pytest.fixture(scope="module")
def early_whole(exports: Exports) -> Path:
    """As `small_fp32`, with verify's scores multiplied at once from 129 slots in use on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_TURNS_TIMES_ROWS", TURNS * 20)
        return exports("early-whole")


def test_only_passes_of_many_rows_have_whole_products(early_whole: Path, small_fp32: Path) -> None:
    counts = []
    for folder in (early_whole, small_fp32):
        model = parse((folder / "prefill_decode.tflite").read_bytes())
        counts.append(
            sum(
                CONTEXT + 1 in map(int, graph.tensors[int(operator.outputs[0])].shape)
                for graph in model.subgraphs
                for operator in graph.operators
                if operator_code(model, operator) == schema.BuiltinOperator.BATCH_MATMUL
            )
        )
    assert counts[0] > counts[1] == 0


@pytest.mark.parametrize("slot", [TURNS * WINDOW - 6, TURNS * WINDOW - 5, TURNS * WINDOW - 4, CONTEXT - 5])
def test_rows_are_the_same_bits_either_way(
    slot: int, early_whole: Path, small_fp32: Path, graph_runner: Callable[[Path], GraphRunner]
) -> None:
    tokens = torch.randint(20, 2000, (slot + 5,), generator=torch.Generator().manual_seed(3)).tolist()
    found = []
    for folder in (early_whole, small_fp32):
        runner = graph_runner(folder)
        runner.prefill(tokens[:slot])
        found.append(runner.target("verify", tokens[slot:], slot)["logits"])
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("context", [None, SHORT])
def test_text_on_stock_stays_the_same(
    context: int | None, early_whole: Path, small_fp32: Path, prompts: list[HeldOutPrompt]
) -> None:
    """Through both forms in one answer, with the context as exported and with one chosen at load."""
    end = TURNS * WINDOW
    texts = [prompt.text for prompt in prompts if end - 24 <= len(prompt.tokens) <= end - 2][:4]
    assert texts
    runs = [
        run_stock(folder / "model.litertlm", texts, speculative=mtp, context_length=context)
        for folder, mtp in ((early_whole, True), (early_whole, False), (small_fp32, True))
    ]
    for with_mtp, without, by_blocks in zip(*(run.texts for run in runs), strict=True):
        assert with_mtp.startswith(without)
        assert with_mtp == by_blocks
