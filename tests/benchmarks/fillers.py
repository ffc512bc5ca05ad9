"""What may be copied at will into a wide pair's unused vocabulary and clusters: rows that never win.

Copies score what their original scores, so they are never predicted or chosen if it never is. The originals are those
that stay furthest from it over what both models compute on text.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer

from gemma_mtp.runtime.errors import UserError
from gemma_mtp.runtime.parity.oracle.reference import draft, load_pair, target_states
from tests.small_pair.corpus import training_documents, training_text

_ROWS, _TOKENS = 8, 256
_SLOTS_BETWEEN_ROUNDS, _DRAFT_TOKENS = 16, 4


@dataclass(frozen=True)
class Fillers:
    """Tokens whose rows in the target's and the drafter's embedding tables may be copied, and a centroid likewise."""

    target_token: int
    drafter_token: int
    centroid: int


@torch.no_grad()
def choose_fillers(target_folder: Path, drafter_folder: Path) -> Fillers:
    """Fillers of a pair trained on `tests.small_pair.corpus`, whose drafter has a clustered head.

    Raises:
        UserError: every token or every centroid was chosen at some place of the text.
    """
    target, drafter = load_pair(str(target_folder), str(drafter_folder))
    tokenizer = AutoTokenizer.from_pretrained(target_folder)
    rng, documents = random.Random(0), training_documents()
    logits: list[torch.Tensor] = []
    hidden: list[torch.Tensor] = []
    head = drafter.masked_embedding
    hook = head.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0].reshape(1, -1)))
    for _ in range(_ROWS):
        text = training_text(rng, documents, 8 * _TOKENS)
        row = tokenizer(text, add_special_tokens=False)["input_ids"][:_TOKENS]
        states = target_states(target, row)
        logits.append(states.logits)
        for slot in range(_SLOTS_BETWEEN_ROUNDS, len(row), _SLOTS_BETWEEN_ROUNDS):
            draft(target, drafter, states, row[slot], slot, _DRAFT_TOKENS)
    hook.remove()

    target_logits, drafter_hidden = torch.cat(logits), torch.cat(hidden)  # [T, V], [N, H]
    candidates = head(drafter_hidden[None], drafter.lm_head.weight)[0]  # [N, V], true within the chosen clusters
    centroids = head.centroids(drafter_hidden)  # [N, clusters]
    return Fillers(
        target_token=_furthest(target_logits, target_logits.amax(-1), "tokens of the target"),
        drafter_token=_furthest(drafter.lm_head(drafter_hidden), candidates.amax(-1), "tokens of the drafter"),
        centroid=_furthest(centroids, centroids.topk(head.centroid_intermediate_top_k).values[:, -1], "centroids"),
    )


def _furthest(scores: torch.Tensor, needed: torch.Tensor, what: str) -> int:
    """The column of `scores` `[N, M]` that at its best stays furthest below `needed` `[N]`."""
    best = (scores - needed[:, None]).amax(dim=0)
    if best.min() >= 0:
        raise UserError(f"fillers: all {what} are chosen somewhere in {len(scores)} places; none can be copied")
    return int(best.argmin())
