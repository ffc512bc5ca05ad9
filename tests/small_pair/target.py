"""Train the small pair's target: Gemma 4 E2B's structure in five million parameters."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn import functional as F
from transformers import Gemma4Config, Gemma4ForConditionalGeneration, Gemma4TextConfig, PreTrainedTokenizerFast

from .corpus import Document, training_text
from .optimisers import Schedule, optimise

ROW_TOKENS = 384
BATCH_ROWS = 8
CHARACTERS_PER_TOKEN = 3.0
BOS, EOS, TURN_END = 2, 1, 5

ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0},
}


def target_config(vocabulary: int) -> Gemma4Config:
    """E2B's pattern (four sliding layers and a full one, the last half sharing KV) at a hidden size of 192."""
    text = Gemma4TextConfig(
        vocab_size=vocabulary,
        vocab_size_per_layer_input=vocabulary,
        hidden_size=192,
        hidden_size_per_layer_input=16,
        intermediate_size=384,
        use_double_wide_mlp=True,
        num_hidden_layers=10,
        num_kv_shared_layers=5,
        layer_types=(["sliding_attention"] * 4 + ["full_attention"]) * 2,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=32,
        global_head_dim=64,
        sliding_window=64,
        max_position_embeddings=1024,
        final_logit_softcapping=30.0,
        rope_parameters=ROPE,
        bos_token_id=BOS,
        eos_token_id=[EOS, TURN_END],
        pad_token_id=0,
    )
    return Gemma4Config(text_config=text, vision_config=None, audio_config=None)


def prepare_for_training(model: nn.Module) -> None:
    """Start attention at the usual 1/sqrt(head_dim) temperature and let `layer_scalar`, a buffer, learn."""
    for name, parameter in model.named_parameters():
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            nn.init.constant_(parameter, parameter.numel() ** -0.25)
    for name, buffer in model.named_buffers():
        if name.endswith("layer_scalar"):
            buffer.requires_grad_(True)


def rows(
    tokenizer: PreTrainedTokenizerFast, documents: list[Document], rng: random.Random, count: int, tokens: int
) -> Iterator[torch.Tensor]:
    """Endless batches of token ids, int64 `[count, tokens]`."""
    while True:
        texts = [training_text(rng, documents, int(tokens * CHARACTERS_PER_TOKEN * 1.5)) for _ in range(count)]
        encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
        if all(len(ids) >= tokens for ids in encoded):
            yield torch.tensor([ids[:tokens] for ids in encoded])


def train_target(
    tokenizer: PreTrainedTokenizerFast, documents: list[Document], schedule: Schedule, seed: int, say: Callable
) -> Gemma4ForConditionalGeneration:
    """A target trained on `documents`, in float32 with values that bfloat16 holds exactly."""
    torch.manual_seed(seed)
    model = Gemma4ForConditionalGeneration(target_config(len(tokenizer)))
    prepare_for_training(model)
    batches = rows(tokenizer, documents, random.Random(seed), BATCH_ROWS, ROW_TOKENS)

    def loss_of_step(_: int) -> torch.Tensor:
        ids = next(batches)
        logits = model(input_ids=ids, use_cache=False).logits
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    optimise(model, loss_of_step, schedule, say)
    model.requires_grad_(False)
    for buffer in model.buffers():
        buffer.requires_grad_(False)
    return model.to(torch.bfloat16).float().eval()
