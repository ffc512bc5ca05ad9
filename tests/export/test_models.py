"""The re-authored models against transformers' own classes, in float32 torch, at positions inside and beyond the
sliding window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from gemma_mtp.export.checkpoint.read_config import read_drafter_config, read_target_config
from gemma_mtp.export.checkpoint.values import rope_table
from gemma_mtp.export.checkpoint.weights import decode_weights, drafter_weights, prefill_weights
from gemma_mtp.export.models.drafter import DrafterModel
from gemma_mtp.export.models.embedders import embed, embed_per_layer
from gemma_mtp.export.models.kv_cache import KVSignature, kv_signature
from gemma_mtp.export.models.layers import rotary_rows
from gemma_mtp.export.models.pieces import Directly
from gemma_mtp.export.models.target import TargetModel
from gemma_mtp.runtime.bundle.names import ROPE_STRIDE, ROPE_TABLES
from gemma_mtp.runtime.parity.oracle.reference import draft, target_states
from tests.support import oracle

LENGTH = 48
PATTERNS = {
    "e2b": {},
    "e4b": oracle.E4B_PATTERN,
    "no_softcapping": {"final_logit_softcapping": None},
    "default_pattern": {"layer_types": None, "num_hidden_layers": 12, "num_kv_shared_layers": 6},
}


def param_tensor(first: int, end: int) -> torch.Tensor:
    """What LiteRT-LM passes for slots `first`..`end - 1`."""
    return torch.tensor([first, end, end, 0, 0, 0, 0]).int().view(1, 1, 1, 7)


def _tables(layer_type: str) -> list[tuple[str, int]]:
    """A layer type's rotary tables, and the positions from one of their rows to the next."""
    return list(zip(ROPE_TABLES[layer_type], (1, ROPE_STRIDE), strict=True))


class Pair:
    """A random pair in transformers' classes and in ours, with the weights that both share."""

    def __init__(self, pattern: dict[str, object], *, dense_head: bool = False) -> None:
        self.target = oracle.random_target(**pattern)
        self.drafter = oracle.random_drafter(self.target, dense_head=dense_head)
        self.target_config = read_target_config(self.target.config.to_dict(), "target")
        self.drafter_config = read_drafter_config(self.drafter.config.to_dict(), "drafter")
        self.kv: KVSignature = kv_signature(self.target_config, self.drafter_config, LENGTH)
        self.weights = {
            name.removeprefix("model.language_model."): tensor for name, tensor in self.target.state_dict().items()
        }
        self.weights |= self._rope(self.target_config)
        self.drafter_weights = {
            name.removeprefix("model."): tensor for name, tensor in self.drafter.state_dict().items()
        }
        self.drafter_weights |= self._rope(self.drafter_config)
        if not dense_head:
            ordering = self.drafter.masked_embedding.token_ordering
            clusters = self.drafter_config.clusters
            self.drafter_weights["clustered_head.rows"] = self.drafter.lm_head.weight[ordering].reshape(clusters, -1)
            self.drafter_weights["clustered_head.scales"] = torch.ones(clusters, len(ordering) // clusters)
            self.drafter_weights["clustered_head.inverse_ordering"] = ordering.argsort().int()
        self.tokens = torch.randint(6, oracle.VOCABULARY, (32,), generator=torch.Generator().manual_seed(3)).tolist()

    @staticmethod
    def _rope(config) -> dict[str, torch.Tensor]:
        tables = ((name, config.attention_of(kind), step) for kind in ROPE_TABLES for name, step in _tables(kind))
        return {name: rope_table(attention, ROPE_STRIDE, step) for name, attention, step in tables}

    def step(self, first: int, tokens: list[int]) -> dict[str, torch.Tensor]:
        """Inputs of a target pass over `tokens` from slot `first` on."""
        positions = torch.arange(first, first + len(tokens), dtype=torch.int32)
        columns = torch.arange(LENGTH)
        ids = [torch.tensor([[token]], dtype=torch.int32) for token in tokens]
        return {
            "embeddings": torch.cat([embed(self.target_config, self.weights, i) for i in ids], 1),
            "per_layer_embeddings": torch.cat([embed_per_layer(self.target_config, self.weights, i) for i in ids], 1),
            "input_pos": positions,
            "mask": torch.where(columns <= positions[:, None], 0.0, -1e30)[None, None],
            "param_tensor": param_tensor(first, first + len(tokens)),
        }

    def empty(self) -> dict[str, torch.Tensor]:
        return {name: torch.zeros(shape) for name, shape in self.kv.target_shapes().items()}


@pytest.fixture(scope="module", params=PATTERNS)
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(PATTERNS[request.param])


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 2e-5) -> None:
    span = float(theirs.max() - theirs.min())
    assert float((ours - theirs).abs().max()) <= tolerance * span


@torch.no_grad()
def test_prefill_decode_and_verify_equal_transformers(pair: Pair) -> None:
    truth = oracle.run_target(pair.target, pair.tokens)
    model, caches = TargetModel(pair.target_config, pair.kv), pair.empty()
    for first, last in ((0, 8), (8, 20)):  # The window is 8, so the second chunk crosses it.
        caches = model.prefill(
            pair.weights, **pair.step(first, pair.tokens[first:last]), caches=caches, pieces=Directly()
        )
    for slot in (20, 21):
        logits, activations, caches = model.decode(
            pair.weights, **pair.step(slot, pair.tokens[slot : slot + 1]), caches=caches, pieces=Directly()
        )
        close(logits[0], truth.logits[slot : slot + 1])
        close(activations[0], truth.activations[slot : slot + 1])
    logits, activations, caches = model.decode(
        pair.weights, **pair.step(22, pair.tokens[22:27]), caches=caches, pieces=Directly()
    )
    close(logits[0], truth.logits[22:27])
    close(activations[0], truth.activations[22:27])
    for cache, (keys, values) in zip(pair.kv.target, truth.caches, strict=True):
        close(caches[cache.key_name][0, :, :27], keys[:, :27])
        close(caches[cache.value_name][0, :, :, :27], values[:, :27].transpose(1, 2))


def without_layer_scalar(pair: Pair) -> None:
    pair.weights = {name: torch.ones(1) if "layer_scalar" in name else value for name, value in pair.weights.items()}


def with_config(**changes: object) -> Callable[[Pair], None]:
    def change(pair: Pair) -> None:
        pair.target_config = replace(pair.target_config, **changes)

    return change


def with_sliding(**changes: object) -> Callable[[Pair], None]:
    def change(pair: Pair) -> None:
        pair.target_config = replace(pair.target_config, sliding=replace(pair.target_config.sliding, **changes))

    return change


def with_rope_base(pair: Pair) -> None:
    pair.weights["rope.sliding.fine"] = rope_table(replace(pair.target_config.sliding, rope_theta=2e4), LENGTH, 1)


def with_full_rotation(pair: Pair) -> None:
    attention = replace(pair.target_config.full, rotated_pairs=16)
    for name, step in _tables("full_attention"):
        pair.weights[name] = rope_table(attention, LENGTH, step)


FAULTS = {
    "window_one_wider": with_sliding(window=9),
    "window_one_narrower": with_sliding(window=7),
    "no_softcapping": with_config(final_logit_softcapping=None),
    "epsilon": with_config(rms_norm_eps=1e-3),
    "no_layer_scalar": without_layer_scalar,
    "rope_base": with_rope_base,
    "full_rotation": with_full_rotation,
}


@torch.no_grad()
@pytest.mark.parametrize("fault", FAULTS)
def test_comparison_notices_a_planted_fault(fault: str) -> None:
    pair = Pair({})
    truth = oracle.run_target(pair.target, pair.tokens)
    FAULTS[fault](pair)
    model = TargetModel(pair.target_config, pair.kv)
    caches = model.prefill(pair.weights, **pair.step(0, pair.tokens[:20]), caches=pair.empty(), pieces=Directly())
    logits, _, _ = model.decode(pair.weights, **pair.step(20, pair.tokens[20:21]), caches=caches, pieces=Directly())
    with pytest.raises(AssertionError):
        close(logits[0], truth.logits[20:21])


@torch.no_grad()
@pytest.mark.parametrize("slot", [3, 8, 9, 25])
@pytest.mark.parametrize("dense_head", [False, True])
def test_draft_steps_equal_transformers_drafter(slot: int, dense_head: bool) -> None:
    pair = Pair({}, dense_head=dense_head)
    states = target_states(pair.target, pair.tokens)
    steps = draft(pair.target, pair.drafter, states, pair.tokens[slot], slot, 4)
    caches = {name: torch.full(shape, 1e3) for name, shape in pair.kv.drafter_shapes().items()}
    for cache, layer_type in zip(pair.kv.drafter, ("sliding_attention", "full_attention"), strict=True):
        keys, values = states.kv[layer_type]
        caches[cache.key_name][:, :, :slot] = keys[:, :, :slot]  # Later rows stay: the mask must hide them.
        caches[cache.value_name][..., :slot] = values[:, :, :slot].transpose(2, 3)
    model = DrafterModel(pair.drafter_config, pair.target_config, pair.kv)
    token, activation = pair.tokens[slot], states.activations[slot - 1].view(1, 1, -1)
    for expected_token, expected_logits, expected_state in steps:
        embedded = embed(pair.target_config, pair.weights, torch.tensor([[token]]))
        logits, activation = model.draft(
            pair.drafter_weights,
            torch.cat((embedded, activation), -1),
            torch.tensor([slot - 1]).int(),
            torch.where(torch.arange(LENGTH) < slot, 0.0, -1e30).view(1, 1, 1, -1),
            param_tensor(slot - 1, slot),
            caches,
            Directly(),
        )
        token = int(logits.argmax())
        assert token == expected_token
        close(activation[0, 0], expected_state)
        scored = expected_logits > expected_logits.min()
        if dense_head:
            close(logits[0, 0], expected_logits)
        else:
            # transformers marks the tokens of unchosen clusters by the lowest logit less one, we by a constant.
            assert int(scored.sum()) == 4 * oracle.VOCABULARY // 32
            close(logits[0, 0, scored], expected_logits[scored])
            assert bool((logits[0, 0, ~scored] == -3e4).all())


def test_weight_lists_name_every_tensor_of_the_checkpoints(pair: Pair) -> None:
    target = {w.source for w in decode_weights(pair.target_config)} | {"embed_tokens_per_layer.weight"}
    assert target - {None} == {name for name in pair.weights if not name.startswith("rope.")} - {"lm_head.weight"}
    drafter = {w.source for w in drafter_weights(pair.drafter_config, LENGTH)} - {None}
    own = set(pair.drafter.state_dict()) - {"lm_head.weight"}
    assert drafter == {name.removeprefix("model.") for name in own}
    assert set(prefill_weights(pair.target_config)) < set(decode_weights(pair.target_config))


def test_rotary_rows_add_angles_up_to_the_longest_context(pair: Pair) -> None:
    """A far position's row is the sum of two angles, exact but for float32; near ones are transformers' own bits."""
    config, positions = pair.target_config, 131_072
    near, far = torch.arange(ROPE_STRIDE), torch.tensor([ROPE_STRIDE, 1_023, 32_001, positions - 1])
    for kind in sorted(set(config.layer_types)):
        attention = config.attention_of(kind)
        fine, coarse = (
            rope_table(attention, rows, step)
            for rows, step in ((ROPE_STRIDE, 1), (positions // ROPE_STRIDE, ROPE_STRIDE))
        )
        assert torch.equal(rotary_rows(near.int(), fine, coarse).squeeze(), fine)
        pairs = torch.arange(0, 2 * attention.rotated_pairs, 2).float()
        frequencies = 1.0 / (attention.rope_theta ** (pairs / attention.head_dim))
        angles = far[:, None].double() * frequencies.double()
        exact = torch.cat((angles.cos(), angles.sin()), dim=-1)
        # The fine table rounds its angles to float32, as transformers does. The planted fault: the row before.
        for shift, agrees in ((0, True), (1, False)):
            rows = rotary_rows((far - shift).int(), fine, coarse)[0, :, 0]
            assert bool((rows - exact).abs().max() < 4e-5) is agrees


@torch.no_grad()
def test_a_pass_that_overruns_the_caches_keeps_what_they_hold(pair: Pair) -> None:
    """Five rows from the last slot but one of 47, a placeholder: two fit, no earlier one changes."""
    short = kv_signature(pair.target_config, pair.drafter_config, 47)
    generator = torch.Generator().manual_seed(5)
    old = {name: torch.randn(shape, generator=generator) for name, shape in short.target_shapes().items()}
    padded = {name: torch.zeros(shape) for name, shape in pair.kv.target_shapes().items()}
    for cache in short.target:
        padded[cache.key_name][:, :, :47] = old[cache.key_name]
        padded[cache.value_name][..., :47] = old[cache.value_name]
    inputs = pair.step(45, pair.tokens[:5])
    wide = torch.full((1, 1, 5, 2 * 47), -1e30)
    for row in range(5):
        wide[0, 0, row, : 46 + row] = 0
    overrun = TargetModel(pair.target_config, short)
    logits, _, found = overrun.decode(pair.weights, **{**inputs, "mask": wide}, caches=dict(old), pieces=Directly())
    for cache in short.target:
        assert torch.equal(found[cache.key_name][:, :, :45], old[cache.key_name][:, :, :45])
        assert torch.equal(found[cache.value_name][..., :45], old[cache.value_name][..., :45])
    # As two plain steps, of which the second is the context's last.
    model, caches = TargetModel(pair.target_config, pair.kv), padded
    for row in range(2):
        expected, _, caches = model.decode(
            pair.weights, **pair.step(45 + row, pair.tokens[row : row + 1]), caches=caches, pieces=Directly()
        )
        close(logits[0, row : row + 1], expected[0])
