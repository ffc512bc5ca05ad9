"""Exported float32 graphs on LiteRT against transformers' own classes, signature by signature."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema

from gemma_mtp.runtime.bundle.flatbuffer import operator_code, parse
from gemma_mtp.runtime.parity.oracle.reference import draft, load_pair, target_states
from tests.conftest import DRAFTER, TARGET, BundleOf
from tests.support.graph_runner import GraphRunner
from tests.support.oracle import run_target

SLOTS = 257  # The prime above CONTEXT, for which LiteRT-LM puts what an app asks for.
TOLERANCE = 1e-4  # Of the range of the values compared.

Load = Callable[[Path], GraphRunner]


def assert_close(ours: np.ndarray, theirs: torch.Tensor) -> None:
    expected = theirs.numpy()
    error = np.abs(ours - expected).max() / (expected.max() - expected.min())
    assert error <= TOLERANCE


@pytest.fixture(params=["small_fp32", "e4b", "dense_head"])
def case(request: pytest.FixtureRequest, bundle_of: BundleOf):
    """An export and the checkpoints it was made from."""
    folder = bundle_of(request.param)
    if request.param == "e4b":
        checkpoints = request.getfixturevalue("e4b_checkpoints")
    else:
        drafter = request.getfixturevalue("dense_drafter") if request.param == "dense_head" else DRAFTER
        checkpoints = (TARGET, drafter)
    return folder, load_pair(*map(str, checkpoints))


def test_every_signature_equals_transformers(case, graph_runner: Load) -> None:
    """Prefill over several chunks, decode, verify and draft, from the first token to beyond the window."""
    folder, (target, drafter) = case
    runner = graph_runner(folder)
    window = target.config.text_config.sliding_window
    tokens = torch.randint(20, 2000, (runner.length,), generator=torch.Generator().manual_seed(0)).tolist()
    truth, states = run_target(target, tokens), target_states(target, tokens)

    def check(outputs: dict[str, np.ndarray], first: int, count: int) -> None:
        assert outputs["logits"].shape[1] == count
        assert_close(outputs["logits"][0], truth.logits[first : first + count])
        assert_close(outputs["activations"][0], truth.activations[first : first + count])

    check(runner.target("decode", tokens[:1], 0), 0, 1)
    for prompt in (window - 1, window, window + 3, runner.length - 8):
        runner.reset()
        runner.prefill(tokens[:prompt])
        check(runner.target("decode", tokens[prompt : prompt + 1], prompt), prompt, 1)
        slot = prompt + 1
        ours = runner.draft(tokens[slot], truth.activations[slot - 1].numpy(), slot, 4)
        theirs = draft(target, drafter, states, tokens[slot], slot, 4)
        for step, (token, logits, activations) in zip(ours, theirs, strict=True):
            assert int(step["logits"].argmax()) == token
            scored = logits > logits.min() if drafter.config.use_ordered_embeddings else torch.ones_like(logits) > 0
            assert_close(step["logits"][0, 0][scored.numpy()], logits[scored])
            assert_close(step["projected_activations"][0, 0], activations)
        check(runner.target("verify", tokens[slot : slot + 5], slot), slot, 5)
        for layer, (keys, values) in enumerate(truth.caches):
            assert_close(runner.caches[f"kv_cache_k_{layer}"][0, :, : slot + 5], keys[:, : slot + 5])
            written = runner.caches[f"kv_cache_v_{layer}"][0, :, :, : slot + 5]
            assert_close(written, values[:, : slot + 5].transpose(1, 2))


# Windows begin with the first slot up to 63 and move on from there; blocks of 64 slots end at 128 and at 256, where the
# last one begins before its place; 252 is the last slot from which a verify pass stays within the cache of 257, which
# holds nothing of what lies past its end.
@pytest.mark.parametrize("slot", [0, 1, 61, 63, 64, 80, 126, 190, 252, 254, 256])
@pytest.mark.parametrize("weights", ["small_fp32", "small_int8"])
def test_verify_rows_equal_decode_steps_bit_for_bit(
    weights: str, slot: int, bundle_of: BundleOf, graph_runner: Load
) -> None:
    """So on the CPU, equal text with speculative decoding on and off is not luck."""
    runner = graph_runner(bundle_of(weights))
    assert runner.length == SLOTS
    tokens = torch.randint(20, 2000, (SLOTS + 5,), generator=torch.Generator().manual_seed(1)).tolist()
    runner.prefill(tokens[:slot])
    before = dict(runner.caches)
    verify = runner.target("verify", tokens[slot : slot + 5], slot)
    verified = dict(runner.caches)
    runner.caches = before
    for row in range(min(5, SLOTS - slot)):
        decode = runner.target("decode", tokens[slot + row : slot + row + 1], slot + row)
        np.testing.assert_array_equal(decode["logits"][0, 0], verify["logits"][0, row])
        np.testing.assert_array_equal(decode["activations"][0, 0], verify["activations"][0, row])
    for name, cache in runner.caches.items():
        np.testing.assert_array_equal(cache, verified[name])


@pytest.mark.parametrize("weights", ["small_fp32", "small_int8"])
def test_cache_rows_are_the_same_bits_however_a_prompt_is_cut(
    weights: str, bundle_of: BundleOf, graph_runner: Load
) -> None:
    runner = graph_runner(bundle_of(weights))
    count = SLOTS - 32  # So that every padded chunk ends within the caches, as runtimes see to.
    tokens = torch.randint(20, 2000, (count,), generator=torch.Generator().manual_seed(2)).tolist()
    runner.prefill(tokens)
    whole = dict(runner.caches)
    for lengths in ((8,), (8, 32, 8, 32, 32), (1,), (5, 32, 1)):
        runner.reset()
        slot = 0
        while slot < count:
            for length in lengths:
                part = tokens[slot : slot + length]
                if part:
                    name = "decode" if len(part) == 1 else "prefill_8" if len(part) <= 8 else "prefill_32"
                    runner.target(name, part, slot)
                slot += len(part)
        for name, cache in runner.caches.items():
            rows = cache[:, :, :count] if "_k_" in name else cache[..., :count]
            expected = whole[name][:, :, :count] if "_k_" in name else whole[name][..., :count]
            np.testing.assert_array_equal(rows, expected, err_msg=f"{name}, {lengths}")


def test_draft_step_multiplies_only_centroids_and_chosen_rows(small_fp32: Path) -> None:
    """The clustered head has no product with the whole vocabulary."""
    model = parse((small_fp32 / "mtp_drafter.tflite").read_bytes())
    graph = model.subgraphs[0]
    products = {schema.BuiltinOperator.FULLY_CONNECTED, schema.BuiltinOperator.BATCH_MATMUL}
    for operator in graph.operators:
        if operator_code(model, operator) in products:
            for index in operator.inputs[:2]:
                assert 2048 not in list(graph.tensors[index].shape)


@pytest.mark.parametrize("model", ["prefill_decode", "mtp_drafter"])
def test_no_product_runs_over_the_whole_cache(model: str, small_fp32: Path) -> None:
    """Sliding layers cut out their window, full ones go block by block; both in the composites' decompositions."""
    parsed = parse((small_fp32 / f"{model}.tflite").read_bytes())
    products = loops = 0
    for graph in parsed.subgraphs:
        for operator in graph.operators:
            code = operator_code(parsed, operator)
            loops += code == schema.BuiltinOperator.WHILE
            if code == schema.BuiltinOperator.BATCH_MATMUL:
                products += 1
                for index in (*operator.inputs, *operator.outputs):
                    assert SLOTS not in list(graph.tensors[index].shape)
    assert products > loops > 0
    largest = max(len(buffer.data) for buffer in parsed.buffers if buffer.data is not None)
    assert largest < 4 * SLOTS * 64  # No row of zeros or mask was written out.
