"""The drafter's output head: clustered (only the chosen clusters' rows are multiplied) or dense.

Mirrors transformers' Gemma4AssistantMaskedEmbedder, with one difference: tokens outside the chosen clusters get a
constant far below every score instead of `min(selected) - 1`, so that they have no probability when sampled from.

At E2B's size the head has 262,144 rows in 2,048 clusters; a draft step scores 2,048 centroids and the 4,096 rows of
the best 32 clusters. Rows are stored in cluster order, so a cluster is one contiguous row of the table and is copied
as it is stored: an EMBEDDING_LOOKUP of its 128 tokens would open each code with scalar code, which took more than half
of a draft step. The rows' own scales are multiplied into the scores instead.

The logits come back to token order by a constant gather of all 262,144, which every backend takes; or, on the CPU
alone, by a scatter of the 4,096, which takes a quarter of a draft step less.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ..checkpoint.config import DrafterConfig
from ..checkpoint.weights import CENTROIDS, HEAD_ROWS, HEAD_SCALES, HEAD_TOKENS, INVERSE_ORDERING, head_name
from . import lowerings
from .layers import Weights
from .lowerings import linear

# Logits of tokens that were not scored: inside float16, and exp() of it is zero.
NOT_CHOSEN = -3e4


def clustered_logits(
    config: DrafterConfig, weights: Weights, hidden: torch.Tensor, *, scatter: bool = False
) -> torch.Tensor:
    """Logits float32 `[1, 1, V]` in token order from `hidden` `[1, 1, H]`; NOT_CHOSEN outside the chosen clusters.

    With `scatter`, the weights are those of `drafter_weights(scatter=True)`, and only the CPU takes the graph.
    """
    size, chosen = config.tokens_per_cluster, config.chosen_clusters
    clusters = config.vocab_size // size
    scores = linear(hidden, weights[CENTROIDS]).reshape(1, clusters)
    best = torch.topk(scores, chosen, dim=-1).indices.to(torch.int32).reshape(chosen, 1)
    # Lookups which graphs/skeleton.py turns into GATHER, of codes where the table is quantized.
    rows = F.embedding(best.reshape(-1), weights[HEAD_ROWS]).reshape(chosen * size, -1)  # [chosen * size, H]
    scales = F.embedding(best.reshape(-1), weights[HEAD_SCALES])  # [chosen, size]
    # A product of matrices would lay the rows out anew first, which takes three times as long on the CPU.
    logits = (rows * hidden.reshape(1, -1)).sum(dim=1).reshape(chosen, size) * scales

    if scatter:
        tokens = lowerings.rows(weights[HEAD_TOKENS], best.reshape(-1)).reshape(-1)  # [chosen * size]
        values, marks = (
            lowerings.scatter(tokens, part, config.vocab_size)
            for part in (logits.reshape(-1), torch.full((chosen * size,), -NOT_CHOSEN))
        )
        return (values + (marks + NOT_CHOSEN)).reshape(1, 1, -1)  # Exact: one of the terms is 0.

    # Chosen clusters are numbered from 1 and lie in that row of a table, whose first row is every other cluster's. Of
    # constants with fewer than four axes, the GPU reads the first row only.
    places = torch.arange(clusters, dtype=torch.int32).reshape(1, clusters)
    one_hot = (best == places).to(torch.float32).reshape(1, chosen, 1, clusters)
    numbers = torch.arange(1, chosen + 1, dtype=torch.float32).reshape(1, chosen, 1, 1)
    number = (one_hot * numbers).sum(dim=1).reshape(clusters).to(torch.int32)
    table = torch.cat((torch.full((1, size), NOT_CHOSEN), logits), dim=0)  # [1 + chosen, size]
    # Lookups in computed tables, which become the GATHER that they are, too.
    in_cluster_order = F.embedding(number, table).reshape(-1)
    return F.embedding(weights[INVERSE_ORDERING], in_cluster_order.reshape(-1, 1)).reshape(1, 1, -1)


def dense_logits(config: DrafterConfig, weights: Weights, hidden: torch.Tensor) -> torch.Tensor:
    """Logits float32 `[1, 1, V]` of a checkpoint with `use_ordered_embeddings: false`."""
    return linear(hidden, weights[head_name(config)])
