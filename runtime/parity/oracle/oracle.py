"""transformers' own Gemma 4 classes on a pair of checkpoints, in float32: what a bundle is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .reference import TargetStates, draft
from .streaming import WeightSource, float_bytes, stored_names, stream_weights


@dataclass(frozen=True)
class TargetPass:
    """One pass over a sequence of T tokens.

    `logits` `[rows, V]` of the rows that were asked for, by `rows` (row number -> index); `activations` `[T, D]`,
    after the final norm; `caches`, keys and values `[kv_heads, T, head_dim]` of every layer that has its own.
    """

    tokens: tuple[int, ...]
    logits: np.ndarray
    rows: dict[int, int]
    activations: np.ndarray
    caches: tuple[tuple[np.ndarray, np.ndarray], ...]

    def logits_at(self, row: int) -> np.ndarray:
        """Logits `[V]` of one of the rows that were asked for."""
        return self.logits[self.rows[row]]


@dataclass(frozen=True)
class DraftStep:
    """One draft step: its `token`, logits `[V]` as transformers gives them, logits `[V]` of the dense head (of every
    token, whatever its cluster), and projected activations `[D]`."""

    token: int
    logits: np.ndarray
    dense_logits: np.ndarray
    activation: np.ndarray


class Oracle:
    """Target and drafter, each in transformers' own class.

    Attributes:
        config: the target's text configuration.
        drafter_config: the drafter's configuration.
        target: `Gemma4ForCausalLM`, which takes its weights layer by layer.
        drafter: `Gemma4AssistantForCausalLM`.
        target_weights: the target's checkpoint.
        drafter_weights: the drafter's.
        target_names: what the target's checkpoint calls each parameter of `target`.
        drafter_names: what the drafter's calls each of `drafter`.
    """

    def __init__(
        self, target_config: Any, target_weights: WeightSource, drafter_config: Any, drafter_weights: WeightSource
    ) -> None:
        """Build both models; the target's weights are read as they are used.

        Args:
            target_config: transformers' configuration of the target, or its text part.
            target_weights: the target's checkpoint.
            drafter_config: transformers' configuration of the drafter.
            drafter_weights: the drafter's checkpoint, whose weights are loaded now.

        Raises:
            UserError: a tensor is missing or cannot be read.
        """
        from transformers import Gemma4AssistantForCausalLM, Gemma4ForCausalLM

        self.config, self.drafter_config = target_config.get_text_config(), drafter_config
        self._target_config = target_config
        with torch.device("meta"):
            self.target = Gemma4ForCausalLM(self.config).eval()
        # Before the weights are streamed, as they are counted on the meta device.
        self.target_weights, self.drafter_weights = target_weights, drafter_weights
        tied = target_config.tie_word_embeddings
        self.target_names = stored_names(self.target.state_dict(), target_weights, tied=tied)
        layers = [float_bytes(layer) for layer in self.target.model.layers]
        self._streamed_bytes = max(*layers, float_bytes(self.target.lm_head))
        stream_weights(self.target, target_weights, tied=tied)
        self.drafter = Gemma4AssistantForCausalLM(drafter_config).eval()
        self.drafter_names = _load(self.drafter, drafter_weights, tied=drafter_config.tie_word_embeddings)

    def on(self, target_weights: WeightSource, drafter_weights: WeightSource) -> Oracle:
        """The same models on other weights.

        Raises:
            UserError: a tensor is missing or cannot be read.
        """
        return Oracle(self._target_config, target_weights, self.drafter_config, drafter_weights)

    @property
    def bytes_needed(self) -> int:
        """Bytes of weights in memory at a time: the largest layer or the head, what stays, and the drafter."""
        stays = sum(4 * p.numel() for p in self.target.parameters() if not p.is_meta)
        return self._streamed_bytes + stays + float_bytes(self.drafter)

    @property
    def own_layers(self) -> int:
        """Layers with a KV cache of their own."""
        return self.config.num_hidden_layers - self.config.num_kv_shared_layers

    def shared_layers(self) -> dict[str, int]:
        """The layer of each type whose cache KV-sharing layers and the drafter read: the last with its own."""
        return {kind: layer for layer, kind in enumerate(self.config.layer_types[: self.own_layers])}

    @torch.no_grad()
    def embed(self, tokens: Sequence[int]) -> np.ndarray:
        """Embeddings `[T, D]` as the target takes them, scaled."""
        return self.target.get_input_embeddings()(torch.tensor([list(tokens)]))[0].numpy()

    @torch.no_grad()
    def embed_per_layer(self, tokens: Sequence[int]) -> np.ndarray:
        """Per-layer embeddings `[T, layers, ple_dim]`, scaled, before the context's projection is added."""
        return self.target.model.get_per_layer_inputs(torch.tensor([list(tokens)]))[0].numpy()

    @torch.no_grad()
    def run(self, tokens: Sequence[int], rows: Sequence[int]) -> TargetPass:
        """The target over all of `tokens` at once; logits of `rows` only, as all would fill the memory."""
        from transformers import DynamicCache

        seen: list[Any] = []
        hook = self.target.model.norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
        cache: Any = DynamicCache()
        wanted = sorted(set(rows))
        try:
            output: Any = self.target(
                input_ids=torch.tensor([list(tokens)]),
                cache=cache,
                use_cache=True,
                logits_to_keep=torch.tensor(wanted, dtype=torch.long),
            )
        finally:
            hook.remove()
        return TargetPass(
            tuple(tokens),
            output.logits[0].numpy(),
            {row: index for index, row in enumerate(wanted)},
            seen[0][0].numpy(),
            tuple((layer.keys[0].numpy(), layer.values[0].numpy()) for layer in cache.layers),
        )

    @torch.no_grad()
    def draft(self, states: TargetPass, newest: int, slot: int, count: int) -> list[DraftStep]:
        """`count` draft steps after `newest`, which takes `slot`, on exactly the processed rows 0..slot-1.

        See `reference.draft` for position and rows; each step is fed the one before it.
        """
        kv = {
            kind: tuple(torch.from_numpy(part)[None] for part in states.caches[layer])
            for kind, layer in self.shared_layers().items()
        }
        rows = TargetStates(torch.empty(0), torch.from_numpy(states.activations), kv)  # pyright: ignore[reportArgumentType]
        hidden: list[Any] = []
        hook = self.drafter.model.norm.register_forward_hook(lambda module, inputs, output: hidden.append(output))
        try:
            steps = draft(self.target, self.drafter, rows, newest, slot, count)  # pyright: ignore[reportArgumentType]
        finally:
            hook.remove()
        return [
            DraftStep(token, logits.numpy(), self.drafter.lm_head(state)[0, -1].numpy(), activation.numpy())
            for (token, logits, activation), state in zip(steps, hidden, strict=True)
        ]


def _load(drafter: Any, source: WeightSource, *, tied: bool) -> dict[str, str]:
    """All of the drafter's weights, and what the checkpoint calls each; `tied` as in `stored_names`."""
    if source.has("lm_head.weight"):
        _untie(drafter)
    state = drafter.state_dict()
    names = stored_names(state, source, tied=tied)
    for name, stored in names.items():
        state[name].copy_(source.read(stored))
    return names


def _untie(drafter: Any) -> None:
    """Give the head a parameter of its own: a configuration that says it is tied has made it the embedding's."""
    drafter.lm_head.weight = torch.nn.Parameter(drafter.lm_head.weight.detach().clone(), requires_grad=False)
