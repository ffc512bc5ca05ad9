"""The shipped pair: trained, of E2B's structure, readable by stock transformers, and worth drafting with."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer

from gemma_mtp.runtime.parity.oracle.reference import load_pair
from tests.conftest import DRAFTER, TARGET
from tests.small_pair.corpus import documents, held_out_documents, held_out_prompts, training_documents
from tests.small_pair.report import measure


@pytest.fixture(scope="module")
def pair():
    return load_pair(str(TARGET), str(DRAFTER))


def decoder_parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for name, parameter in model.named_parameters() if "embed_tokens" not in name)


def test_target_has_every_structural_feature_of_e2b(pair) -> None:
    text = pair[0].config.text_config
    assert type(pair[0]).__name__ == "Gemma4ForConditionalGeneration"
    assert text.layer_types == (["sliding_attention"] * 4 + ["full_attention"]) * 2
    assert text.num_kv_shared_layers == 5
    assert text.use_double_wide_mlp
    assert text.hidden_size_per_layer_input == 16
    assert text.final_logit_softcapping == 30.0
    assert text.rope_parameters["full_attention"]["rope_type"] == "proportional"
    assert text.per_layer_config["full_attention"].head_dim != text.per_layer_config["sliding_attention"].head_dim
    assert text.vocab_size >= 2048
    assert text.sliding_window * 4 <= 256
    scalars = torch.cat([layer.layer_scalar for layer in pair[0].model.language_model.layers])
    assert bool((scalars != 1).all())  # Learned, so that leaving one out shows.


def test_drafter_has_every_feature_of_the_e2b_assistant(pair) -> None:
    target, drafter = pair
    assert type(drafter).__name__ == "Gemma4AssistantForCausalLM"
    assert drafter.config.text_config.num_kv_shared_layers == drafter.config.text_config.num_hidden_layers == 4
    assert drafter.config.use_ordered_embeddings
    ordering = drafter.masked_embedding.token_ordering
    assert torch.equal(ordering.sort().values, torch.arange(2048))
    assert not torch.equal(ordering, torch.arange(2048))
    assert decoder_parameters(target) >= 8 * sum(parameter.numel() for parameter in drafter.parameters())


def test_pair_is_small() -> None:
    files = [path for folder in (TARGET, DRAFTER) for path in folder.iterdir()]
    assert sum(path.stat().st_size for path in files) <= 12_000_000


@pytest.mark.slow
def test_held_out_text_is_never_trained_on() -> None:
    trained, held_out = training_documents(), held_out_documents()
    assert held_out
    assert {d.name for d in trained} | {d.name for d in held_out} == {d.name for d in documents()}
    assert not {d.text for d in trained} & {d.text for d in held_out if d.text}


@pytest.mark.slow
def test_half_of_the_drafted_tokens_are_accepted(pair, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(TARGET)
    prompts = [prompt for prompt in held_out_prompts(24, seed=1) if len(prompt) < 450][:12]
    acceptance = measure(*pair, tokenizer, prompts, new_tokens=96)
    with capsys.disabled():
        by_position = ", ".join(f"{share:.2f}" for share in acceptance.by_position)
        print(
            f"\nsmall pair, 4 draft tokens, {len(prompts)} held-out prompts: {acceptance.overall:.1%} accepted"
            f" (all right up to position: {by_position}; first 48 tokens of each text: {acceptance.early:.1%});"
            f" transformers' assisted generation accepts {acceptance.assisted:.1%}"
        )
    assert acceptance.overall >= 0.5
    assert acceptance.early >= 0.4
    assert acceptance.by_position == tuple(sorted(acceptance.by_position, reverse=True))
