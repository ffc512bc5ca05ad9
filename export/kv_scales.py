"""Scales of int8 caches: from the norms that keys and values pass, or from what given prompts leave in the caches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..runtime.errors import UserError
from ..runtime.parity.stages.conversation import ConversationReference
from ..runtime.text.prompts import Prompt
from .bundle.reference import checkpoint_text
from .checkpoint.pair import Pair
from .models.kv_cache import KVSignature
from .parity import open_oracle

_STEPS = 127
# Entries of an RMS-normed vector have a mean square of 1; those of the shipped pair stay below 4.5. A step grows with
# this number and rounding with it (1.4 % of an entry at 6), but what is cut off is lost whole.
_DEVIATIONS = 6.0
# Room above the largest entry that the prompts showed.
_HEADROOM = 1.1


def scales_from_norms(pair: Pair, kv: KVSignature) -> dict[str, float]:
    """The scale of every cache tensor, from configuration and `k_norm` alone.

    Values are RMS-normed without a weight, so none exceeds sqrt(head_dim); keys are RMS-normed, times `k_norm`, then
    turned in pairs, which leaves the largest weight's bound. Both bounds are far above what vectors of 256 entries
    hold, so values beyond `_DEVIATIONS` are given up: they are cut off there.
    """
    scales: dict[str, float] = {}
    for cache in kv.target:
        largest = min(math.sqrt(cache.head_dim), _DEVIATIONS)
        k_norm = pair.target.read(f"layers.{cache.layer}.self_attn.k_norm.weight").float().abs().max().item()
        scales[cache.key_name] = _scale(largest * k_norm)
        scales[cache.value_name] = _scale(largest)
    return scales


def scales_from_prompts(
    pair: Pair, kv: KVSignature, prompts: Sequence[Prompt], chat_template: Path | None = None
) -> dict[str, float]:
    """The scale of every cache tensor, from its largest entry over `prompts` in transformers' own model.

    The target's weights are read layer by layer, once a prompt.

    Raises:
        UserError: transformers cannot read the target, or a prompt has more tokens than the caches have slots.
    """
    oracle, text = open_oracle(pair), checkpoint_text(pair, chat_template).conversation
    largest = dict.fromkeys(kv.target_shapes(), 0.0)
    for number, prompt in enumerate(prompts, 1):
        tokens = prompt_tokens(text, prompt)
        if not 0 < len(tokens) <= kv.length:
            raise UserError(
                f"--kv-cache-prompts: prompt {number} has {len(tokens)} tokens, expected 1 to {kv.length}, the caches'"
                " slots; shorten it, or raise --context-length"
            )
        for cache, rows in zip(kv.target, oracle.run(tokens, [len(tokens) - 1]).caches, strict=True):
            for name, values in zip(cache.shapes, rows, strict=True):
                largest[name] = max(largest[name], float(np.abs(values).max()))
    return {name: _scale(_HEADROOM * value) for name, value in largest.items()}


def prompt_tokens(text: ConversationReference, prompt: Prompt) -> Sequence[int]:
    """Tokens of `prompt` as the model reads it, by the checkpoint's own tokenizer and chat template."""
    if prompt.text is not None:
        return text.encode(text.start + prompt.text)
    variables = dict(prompt.variables)
    tools = variables.pop("tools", None)
    return text.encode(text.render(prompt.messages, tools=tools, add_generation_prompt=True, **variables))


def _scale(largest: float) -> float:
    # float32, as the file stores it; a tensor of zeros needs a scale as well.
    return float(np.float32(max(largest, 1e-6) / _STEPS))
