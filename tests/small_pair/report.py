"""How much of what is drafted is accepted: in the reference loop, and in transformers' own assisted generation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import Gemma4AssistantForCausalLM, Gemma4ForConditionalGeneration, PreTrainedTokenizerFast

from gemma_mtp.runtime.parity.oracle.reference import ReferenceRun, greedy_tokens, speculate

DRAFT_TOKENS = 4
STOP = (1, 5)


@dataclass(frozen=True)
class Acceptance:
    """Accepted share of drafted tokens.

    `by_position[i]` is the share of rounds in which the first i + 1 drafts were all right; `early` counts only the
    first 48 tokens of each text, before a small model's greedy text begins to repeat itself; `assisted` is what
    transformers' `generate(assistant_model=...)` accepts of the same texts.
    """

    overall: float
    by_position: tuple[float, ...]
    early: float
    assisted: float


def measure(
    target: Gemma4ForConditionalGeneration,
    drafter: Gemma4AssistantForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[str],
    new_tokens: int,
) -> Acceptance:
    """Acceptance on `prompts`, texts without start token, each continued by at most `new_tokens` greedy tokens."""
    runs, early_accepted, early_drafted, assisted_accepted, assisted_drafted = [], 0, 0, 0, 0
    for prompt in prompts:
        ids = tokenizer("<bos>" + prompt, add_special_tokens=False)["input_ids"]
        tokens = greedy_tokens(target, ids, new_tokens, STOP)
        run = speculate(target, drafter, ids, tokens, DRAFT_TOKENS)
        runs.append(run)
        early = [round_ for round_ in run.rounds if round_.slot < len(ids) + 48]
        early_accepted += sum(round_.accepted for round_ in early)
        early_drafted += DRAFT_TOKENS * len(early)
        accepted, drafted = _assisted(target, drafter, ids, len(tokens))
        assisted_accepted += accepted
        assisted_drafted += drafted
    return Acceptance(
        sum(run.accepted for run in runs) / sum(run.drafted for run in runs),
        _by_position(runs),
        early_accepted / early_drafted,
        assisted_accepted / assisted_drafted,
    )


def _by_position(runs: list[ReferenceRun]) -> tuple[float, ...]:
    rounds = [round_ for run in runs for round_ in run.rounds]
    return tuple(sum(round_.accepted > position for round_ in rounds) / len(rounds) for position in range(DRAFT_TOKENS))


def _assisted(
    target: Gemma4ForConditionalGeneration, drafter: Gemma4AssistantForCausalLM, ids: list[int], new_tokens: int
) -> tuple[int, int]:
    """Accepted and drafted tokens of transformers' assisted generation, from the number of passes of both models."""
    passes = {"target": 0, "drafter": 0}

    def count(name: str):
        def hook(*_: object) -> None:
            passes[name] += 1

        return hook

    drafter.generation_config.num_assistant_tokens = DRAFT_TOKENS
    drafter.generation_config.num_assistant_tokens_schedule = "constant"
    hooks = [target.register_forward_hook(count("target")), drafter.register_forward_hook(count("drafter"))]
    try:
        output = target.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            assistant_model=drafter,
            max_new_tokens=new_tokens,
            do_sample=False,
            eos_token_id=list(STOP),
            pad_token_id=0,
        )
    finally:
        for hook in hooks:
            hook.remove()
    # Every pass of the target gives one token of its own.
    return output.shape[1] - len(ids) - passes["target"], passes["drafter"]
