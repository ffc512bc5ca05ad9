"""The widened pair (tests/benchmarks/widen.py) computes what the shipped small pair does, in transformers' classes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoTokenizer, Gemma4AssistantForCausalLM, Gemma4ForConditionalGeneration

from gemma_mtp.export.checkpoint.pair import open_pair
from gemma_mtp.runtime.errors import UserError
from gemma_mtp.runtime.parity.oracle.reference import draft, greedy_tokens, load_pair, speculate, target_states
from tests.benchmarks.shards import Axis, WideTensor, write_checkpoint
from tests.benchmarks.widen import widen
from tests.benchmarks.widths import E2B, MODERATE, MODERATE_E4B, Widths, wide_target_config, wide_target_json
from tests.conftest import DRAFTER, TARGET
from tests.small_pair.corpus import held_out_prompts

pytestmark = pytest.mark.slow

DRAFT_TOKENS, NEW_TOKENS, STOP = 4, 48, (1, 5)
WINDOW, VOCABULARY, HIDDEN = 64, 2048, 192


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("widened") / "pair"
    widen(TARGET, DRAFTER, MODERATE, folder)
    return folder


@pytest.fixture(scope="module")
def small():
    return load_pair(str(TARGET), str(DRAFTER))


@pytest.fixture(scope="module")
def wide(wide_folder: Path):
    return load_pair(str(wide_folder / "target"), str(wide_folder / "drafter"))


@pytest.fixture(scope="module")
def texts(small) -> list[tuple[list[int], list[int]]]:
    """Held-out prompts, shorter and longer than the sliding window, and the small target's continuations past it."""
    tokenizer = AutoTokenizer.from_pretrained(TARGET)
    prompts = [tokenizer("<bos>" + text, add_special_tokens=False)["input_ids"] for text in held_out_prompts(4, seed=5)]
    found = [(prompt, greedy_tokens(small[0], prompt, NEW_TOKENS, STOP)) for prompt in prompts]
    assert min(len(prompt) for prompt in prompts) < WINDOW < max(len(prompt) for prompt in prompts) / 2
    assert max(len(prompt) + len(tokens) for prompt, tokens in found if len(prompt) < WINDOW) > WINDOW
    return found


def test_pair_of_e4bs_pattern_says_and_drafts_the_same(small, texts, tmp_path: Path) -> None:
    """Two kv heads, of which one is a copy, full layers at other places, one width of MLP."""
    widen(TARGET, DRAFTER, MODERATE_E4B, tmp_path / "pair")
    target, drafter = load_pair(str(tmp_path / "pair" / "target"), str(tmp_path / "pair" / "drafter"))
    assert target.config.text_config.num_key_value_heads == 2
    prompt, tokens = texts[0]
    assert greedy_tokens(target, prompt, NEW_TOKENS, STOP) == tokens
    row, slot = [*prompt, *tokens], len(prompt) - 1
    expected, found = (
        [token for token, _, _ in draft(*pair, target_states(pair[0], row), row[slot], slot, DRAFT_TOKENS)]
        for pair in (small, (target, drafter))
    )
    assert found == expected


def test_greedy_text_is_the_small_targets(wide, texts) -> None:
    for prompt, tokens in texts:
        assert greedy_tokens(wide[0], prompt, NEW_TOKENS, STOP) == tokens


def test_drafted_tokens_of_every_round_are_the_small_drafters(small, wide, texts) -> None:
    accepted = 0
    for prompt, tokens in texts:
        run = speculate(*wide, prompt, tokens, DRAFT_TOKENS)
        assert run == speculate(*small, prompt, tokens, DRAFT_TOKENS)
        accepted += run.accepted
    assert accepted > 0


def test_logits_and_activations_are_the_small_pairs(small, wide, texts) -> None:
    for prompt, tokens in texts:
        text, slot = [*prompt, *tokens], len(prompt)
        expected, found = target_states(small[0], text), target_states(wide[0], text)
        torch.testing.assert_close(found.logits[:, :VOCABULARY], expected.logits, atol=1e-4, rtol=0)
        torch.testing.assert_close(found.activations[:, :HIDDEN], expected.activations, atol=1e-4, rtol=0)
        assert not found.activations[:, HIDDEN:].any()
        drafts = zip(
            draft(*small, expected, text[slot], slot, DRAFT_TOKENS),
            draft(*wide, found, text[slot], slot, DRAFT_TOKENS),
            strict=True,
        )
        for (_, logits, projected), (_, wide_logits, wide_projected) in drafts:
            # Outside the chosen clusters transformers puts one less than the least logit, which unused tokens lower.
            chosen = logits > logits.min()
            torch.testing.assert_close(wide_logits[:VOCABULARY][chosen], logits[chosen], atol=1e-4, rtol=0)
            torch.testing.assert_close(wide_projected[:HIDDEN], projected, atol=1e-4, rtol=0)


def test_unused_tokens_stay_far_from_being_predicted(wide, texts) -> None:
    for prompt, tokens in texts:
        logits = target_states(wide[0], [*prompt, *tokens]).logits
        assert bool((logits[:, :VOCABULARY].amax(-1) > logits[:, VOCABULARY:].amax(-1) + 5).all())


def test_checkpoints_are_whole_and_of_the_given_widths(wide_folder: Path) -> None:
    for model_class, name in ((Gemma4ForConditionalGeneration, "target"), (Gemma4AssistantForCausalLM, "drafter")):
        _, found = model_class.from_pretrained(wide_folder / name, output_loading_info=True)
        assert not any(found.values())
    pair = open_pair(str(wide_folder / "target"), str(wide_folder / "drafter"))
    target, drafter = pair.target_config, pair.drafter_config
    assert (target.layers, target.kv_shared_layers) == (MODERATE.layers, MODERATE.kv_shared_layers)
    assert (target.hidden_size, target.vocab_size, target.ple_dim) == (MODERATE.hidden, MODERATE.vocab, MODERATE.ple)
    assert (target.sliding.head_dim, target.full.head_dim) == (MODERATE.head_dim, MODERATE.global_head_dim)
    assert target.sliding.window == WINDOW
    assert (drafter.clusters, drafter.chosen_clusters) == (MODERATE.centroids, MODERATE.top_k)
    ordering = pair.drafter.read("masked_embedding.token_ordering")
    assert torch.equal(ordering.sort().values, torch.arange(MODERATE.vocab))


def test_default_widths_are_e2bs() -> None:
    pair = open_pair(str(TARGET), str(DRAFTER))
    config = wide_target_config(pair.target_config, wide_target_json(pair.target.config, E2B))
    assert [config.last_own_layer(kind) for kind in ("sliding_attention", "full_attention")] == [13, 14]
    assert [config.mlp_width(layer) for layer in (14, 15)] == [6144, 12288]


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        (replace(MODERATE, hidden=128), "hidden width is 128"),
        (replace(MODERATE, head_dim=48), "head size 48 of sliding_attention"),
        (replace(MODERATE, layers=17), "--layers: 17"),
        (replace(MODERATE, kv_shared_layers=3), "no place for layer 6"),
        (replace(MODERATE, kv_shared_layers=9), "last sliding_attention layer with KV"),
        (replace(MODERATE, top_k=24), "--top-k: 24"),
        (replace(MODERATE, centroids=128), "--centroids is 128"),
        (replace(MODERATE, vocab=2048, centroids=512), "tokens per centroid is 4"),
    ],
)
def test_widths_that_cannot_hold_the_pair_are_refused(widths: Widths, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        widen(TARGET, DRAFTER, widths, tmp_path / "pair")
    assert not any(tmp_path.iterdir())


def test_shards_hold_what_was_scattered(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, 2, generator=generator)
    table = WideTensor("table", values, (Axis.padded(3, 40_000), Axis(1000, torch.tensor([7, 998]))), filler=1)
    scalar = WideTensor("scalar", torch.ones(1, dtype=torch.bfloat16), (Axis.padded(1, 1),))
    places = Axis(6, torch.tensor([0, 2, 4])), Axis.padded(2, 2)
    write_checkpoint(tmp_path, [scalar, WideTensor("matrix", values, places), table], shard_bytes=1000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(index.values())) == 2
    read = {}
    for name, file in index.items():
        with safe_open(tmp_path / file, framework="pt") as shard:
            read[name] = shard.get_tensor(name)
    assert read["scalar"].tolist() == [1]
    assert torch.equal(read["matrix"][::2], values)
    assert not read["matrix"][1::2].any()
    assert torch.equal(read["table"][:3, [7, 998]], values)
    assert torch.equal(read["table"][3:, [7, 998]], values[1].expand(39_997, 2))
    assert read["table"].count_nonzero() == 80_000
