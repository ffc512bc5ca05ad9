"""Train the small pair's drafter on its target's own greedy text, unrolled over the steps it is used with.

For every position q of a row the drafter plays one whole round: the newest token is the one at q + 1, rows 0..q are
processed, and all steps run at position q with their own projected activations, as in LiteRT-LM.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers import (
    Gemma4AssistantConfig,
    Gemma4AssistantForCausalLM,
    Gemma4ForConditionalGeneration,
    Gemma4TextConfig,
    PreTrainedTokenizerFast,
)

from .corpus import Document
from .optimisers import Schedule, optimise
from .target import ROPE, prepare_for_training, rows

STEPS = 4
CLUSTERS, CHOSEN = 128, 16
ROW_TOKENS = 256
PROMPT_TOKENS = (12, 24, 48, 80, 120)
GENERATED_ROWS, GENERATION_BATCH = 4608, 256
BATCH_ROWS = 12
CENTROID_WEIGHT = 0.2
# The share of the goal that is the target's most likely token; the rest is its whole distribution.
HARD_SHARE = 0.5


def drafter_config(target: Gemma4TextConfig) -> Gemma4AssistantConfig:
    """The E2B assistant's pattern (three sliding layers and a full one) at a hidden size of 64."""
    text = Gemma4TextConfig(
        vocab_size=target.vocab_size,
        vocab_size_per_layer_input=0,
        hidden_size=64,
        hidden_size_per_layer_input=0,
        intermediate_size=320,
        num_hidden_layers=4,
        num_kv_shared_layers=4,
        layer_types=["sliding_attention"] * 3 + ["full_attention"],
        num_attention_heads=4,
        num_key_value_heads=target.num_key_value_heads,
        head_dim=32,
        global_head_dim=64,
        sliding_window=target.sliding_window,
        max_position_embeddings=target.max_position_embeddings,
        rope_parameters=ROPE,
        bos_token_id=target.bos_token_id,
        eos_token_id=target.eos_token_id,
        pad_token_id=target.pad_token_id,
    )
    return Gemma4AssistantConfig(
        text_config=text,
        backbone_hidden_size=target.hidden_size,
        use_ordered_embeddings=True,
        num_centroids=CLUSTERS,
        centroid_intermediate_top_k=CHOSEN,
    )


def balanced_clusters(table: torch.Tensor, clusters: int) -> torch.Tensor:
    """Token ordering int64 `[V]`: rows of `table` `[V, D]` halved along their main direction, repeatedly."""
    groups = [torch.arange(table.shape[0])]
    while len(groups) < clusters:
        halves = []
        for group in groups:
            centred = table[group] - table[group].mean(0)
            direction = torch.linalg.svd(centred, full_matrices=False).Vh[0]
            ranked = group[torch.argsort(centred @ direction, stable=True)]
            halves += [ranked[: len(ranked) // 2], ranked[len(ranked) // 2 :]]
        groups = halves
    return torch.cat([group.sort().values for group in groups])


@dataclass
class OwnText:
    """The target's greedy text and its states over it; N rows of T tokens.

    `tokens` int64 `[N, T]`, `activations` float16 `[N, T, D]`, `kv` by layer type, float16 keys and values
    `[N, kv_heads, T, head_dim]`.
    """

    tokens: torch.Tensor
    activations: torch.Tensor
    kv: dict[str, tuple[torch.Tensor, torch.Tensor]]


@torch.no_grad()
def own_text(
    target: Gemma4ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    documents: list[Document],
    seed: int,
    say: Callable[[str], None],
) -> OwnText:
    """Greedy continuations of training text, each of `ROW_TOKENS` tokens; generation goes on past a turn's end."""
    rng = random.Random(seed)
    batches = rows(tokenizer, documents, rng, GENERATION_BATCH, max(PROMPT_TOKENS))
    tokens, activations, kv = [], [], {"sliding_attention": ([], []), "full_attention": ([], [])}
    for batch in range(GENERATED_ROWS // GENERATION_BATCH):
        prompt = next(batches)[:, : PROMPT_TOKENS[batch % len(PROMPT_TOKENS)]]
        text = target.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_length=ROW_TOKENS,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        for part in text.split(32):
            output = target(input_ids=part, use_cache=False, output_hidden_states=True, return_shared_kv_states=True)
            tokens.append(part)
            activations.append(output.hidden_states[-1].half())
            for layer_type, lists in kv.items():
                for states, found in zip(lists, output.shared_kv_states[layer_type], strict=True):
                    states.append(found.half())
        say(f"own text: {(batch + 1) * GENERATION_BATCH}/{GENERATED_ROWS} rows")
    joined = {name: (torch.cat(keys), torch.cat(values)) for name, (keys, values) in kv.items()}
    return OwnText(torch.cat(tokens), torch.cat(activations), joined)


def causal_masks(tokens: int, window: int) -> dict[str, torch.Tensor]:
    """Boolean `[1, 1, T, T]` masks (True = attend) for both layer types."""
    distance = torch.arange(tokens)[:, None] - torch.arange(tokens)
    full = (distance >= 0)[None, None]
    return {"full_attention": full, "sliding_attention": full & (distance < window)}


def round_loss(
    drafter: Gemma4AssistantForCausalLM,
    embedded: torch.Tensor,
    activations: torch.Tensor,
    kv: dict[str, tuple[torch.Tensor, torch.Tensor]],
    goal: torch.Tensor,
) -> torch.Tensor:
    """Mean cross-entropy of all steps of the rounds that begin at every position of a batch.

    Args:
        drafter: in training.
        embedded: scaled embeddings `[B, T, D]` of the row's tokens.
        activations: the target's `[B, T, D]`.
        kv: the target's, by layer type.
        goal: distribution `[B, T, V]` of the token that follows each position.
    """
    head, ordering = drafter.lm_head.weight, drafter.masked_embedding.token_ordering
    cluster_goal = goal[..., ordering].unflatten(-1, (CLUSTERS, -1)).sum(-1)
    rounds = goal.shape[1] - STEPS  # Rounds that the row can still answer.
    position_ids = torch.arange(rounds)[None]
    masks = causal_masks(goal.shape[1], drafter.config.text_config.sliding_window)
    masks = {layer_type: mask[:, :, :rounds] for layer_type, mask in masks.items()}
    state, loss = activations[:, :rounds], goal.new_zeros(())
    for step in range(STEPS):
        newest = embedded[:, step + 1 : step + 1 + rounds]
        hidden = drafter.model(
            inputs_embeds=drafter.pre_projection(torch.cat((newest, state), dim=-1)),
            position_ids=position_ids,
            attention_mask=masks,
            shared_kv_states=dict(kv),
            use_cache=False,
        ).last_hidden_state
        state = drafter.post_projection(hidden)
        span = slice(step + 1, step + 1 + rounds)
        loss = loss + F.cross_entropy((hidden @ head.T).flatten(0, 1), goal[:, span].flatten(0, 1))
        scores = drafter.masked_embedding.centroids(hidden).flatten(0, 1)
        loss = loss + CENTROID_WEIGHT * F.cross_entropy(scores, cluster_goal[:, span].flatten(0, 1))
    return loss / STEPS


def train_drafter(
    target: Gemma4ForConditionalGeneration, text: OwnText, schedule: Schedule, seed: int, say: Callable[[str], None]
) -> Gemma4AssistantForCausalLM:
    """A drafter for `target`, in float32 with values that bfloat16 holds exactly."""
    torch.manual_seed(seed)
    drafter = Gemma4AssistantForCausalLM(drafter_config(target.config.text_config))
    prepare_for_training(drafter)
    table = target.get_input_embeddings().weight.detach()
    with torch.no_grad():
        drafter.masked_embedding.token_ordering.copy_(balanced_clusters(F.normalize(table, dim=-1), CLUSTERS))
        u, s, _ = torch.linalg.svd(table, full_matrices=False)
        main = u[:, : drafter.config.text_config.hidden_size] * s[: drafter.config.text_config.hidden_size]
        drafter.lm_head.weight.copy_(main * (0.05 / main.std()))
    scale, cap = target.config.text_config.hidden_size**0.5, target.config.text_config.final_logit_softcapping
    order = torch.Generator().manual_seed(seed)
    epoch = iter(())

    def loss_of_step(_: int) -> torch.Tensor:
        nonlocal epoch
        batch = next(epoch, None)
        if batch is None:
            epoch = iter(torch.randperm(len(text.tokens), generator=order).split(BATCH_ROWS))
            batch = next(epoch)
        activations = text.activations[batch].float()
        logits = torch.tanh(activations @ table.T / cap) * cap
        likely = F.one_hot(logits.argmax(-1), logits.shape[-1])
        goal = HARD_SHARE * likely + (1 - HARD_SHARE) * logits.softmax(-1)
        kv = {name: (keys[batch].float(), values[batch].float()) for name, (keys, values) in text.kv.items()}
        return round_loss(drafter, table[text.tokens[batch]] * scale, activations, kv, goal)

    optimise(drafter, loss_of_step, schedule, say)
    for tensor in (*drafter.parameters(), *drafter.buffers()):
        tensor.requires_grad_(False)
    return drafter.to(torch.bfloat16).float().eval()
