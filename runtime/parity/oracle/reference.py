"""The torch oracle: a speculative loop on transformers' own Gemma 4 classes.

Drafted tokens come from the drafter *model*, not from `generate(assistant_model=...)`: with transformers 5.22 that
generator shows the drafter rejected rows and runs it one position further than LiteRT-LM, vLLM and mlx-vlm do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import Gemma4AssistantForCausalLM, Gemma4ForConditionalGeneration


@dataclass(frozen=True)
class Round:
    """One speculative round: the newest token's slot, the drafted tokens, and how many of them were right."""

    slot: int
    drafted: tuple[int, ...]
    accepted: int


@dataclass(frozen=True)
class ReferenceRun:
    """Greedy text of the target and the rounds in which the drafter would have drafted it."""

    tokens: tuple[int, ...]
    rounds: tuple[Round, ...]

    @property
    def drafted(self) -> int:
        """Drafted tokens of all rounds."""
        return sum(len(round_.drafted) for round_ in self.rounds)

    @property
    def accepted(self) -> int:
        """Accepted tokens of all rounds."""
        return sum(round_.accepted for round_ in self.rounds)


def load_pair(target: str, drafter: str) -> tuple[Gemma4ForConditionalGeneration, Gemma4AssistantForCausalLM]:
    """Both models in float32 for inference."""
    from transformers import Gemma4AssistantForCausalLM, Gemma4ForConditionalGeneration

    return (
        Gemma4ForConditionalGeneration.from_pretrained(target, dtype=torch.float32).eval(),
        Gemma4AssistantForCausalLM.from_pretrained(drafter, dtype=torch.float32).eval(),
    )


@dataclass(frozen=True)
class TargetStates:
    """What the target computed over one sequence of T tokens.

    `logits` `[T, V]`; `activations` `[T, D]`, after the final norm; `kv` by layer type, the keys and values
    `[1, kv_heads, T, head_dim]` that KV-sharing layers and the drafter read, all rows.
    """

    logits: torch.Tensor
    activations: torch.Tensor
    kv: dict[str, tuple[torch.Tensor, torch.Tensor]]


@torch.no_grad()
def target_states(target: Gemma4ForConditionalGeneration, tokens: Sequence[int]) -> TargetStates:
    """One pass over `tokens` without a cache, so that no sliding layer forgets a row."""
    output = target(
        input_ids=torch.tensor([tokens]), use_cache=False, output_hidden_states=True, return_shared_kv_states=True
    )
    return TargetStates(output.logits[0], output.hidden_states[-1][0], dict(output.shared_kv_states))


@torch.no_grad()
def draft(
    target: Gemma4ForConditionalGeneration,
    drafter: Gemma4AssistantForCausalLM,
    states: TargetStates,
    newest: int,
    slot: int,
    count: int,
) -> list[tuple[int, torch.Tensor, torch.Tensor]]:
    """Draft `count` tokens after token `newest`, which will take `slot`; slots 0..slot-1 are processed.

    Every step runs at position `slot - 1` over the processed rows, sliding layers over the last window of them.

    Returns:
        For each step the token, the logits `[V]` and the projected activations `[D]`.
    """
    window = drafter.config.get_text_config().sliding_window
    first = {"sliding_attention": max(0, slot - window), "full_attention": 0}
    rows = {
        layer_type: (keys[:, :, first[layer_type] : slot], values[:, :, first[layer_type] : slot])
        for layer_type, (keys, values) in states.kv.items()
    }
    embedding = target.get_input_embeddings()
    token, activation, steps = newest, states.activations[slot - 1], []
    for _ in range(count):
        embedded = embedding(torch.tensor([[token]]))
        output = drafter(
            inputs_embeds=torch.cat((embedded, activation.view(1, 1, -1)), dim=-1),
            position_ids=torch.tensor([[slot - 1]]),
            shared_kv_states=rows,
        )
        token, activation = int(output.logits[0, -1].argmax()), output.last_hidden_state[0, -1]
        steps.append((token, output.logits[0, -1], activation))
    return steps


@torch.no_grad()
def greedy_tokens(target: Any, prompt: Sequence[int], max_new_tokens: int, stop: Sequence[int]) -> list[int]:
    """The target's greedy continuation of `prompt` by transformers' `generate`, with the stop token that ended it."""
    output = target.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=list(stop) or None,
        pad_token_id=0,
    )
    return output[0, len(prompt) :].tolist()


def speculate(
    target: Gemma4ForConditionalGeneration,
    drafter: Gemma4AssistantForCausalLM,
    prompt: Sequence[int],
    tokens: Sequence[int],
    draft_tokens: int,
) -> ReferenceRun:
    """Replay the rounds in which `tokens`, the target's greedy continuation of `prompt`, is drafted and verified."""
    text = [*prompt, *tokens]
    states = target_states(target, text)
    rounds, slot = [], len(prompt)
    while slot < len(text) - 1:
        drafted = tuple(step[0] for step in draft(target, drafter, states, text[slot], slot, draft_tokens))
        accepted = 0
        while accepted < draft_tokens and drafted[accepted : accepted + 1] == tuple(text[slot + 1 + accepted :][:1]):
            accepted += 1
        rounds.append(Round(slot, drafted, accepted))
        slot += accepted + 1
    return ReferenceRun(tuple(tokens), tuple(rounds))
