"""The steps of decoding on compiled models: look up, prefill, decode, verify and draft over one set of KV buffers.

The target's cache outputs, its next cache inputs and the drafter's cache inputs are the same LiteRT buffers, so no
cache is copied between steps. What LiteRT-LM writes into each input is written here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..bundle.contract import StepSignature
from ..bundle.loading import OpenBundle
from ..bundle.names import EMBEDDER, MTP_DRAFTER, PER_LAYER_EMBEDDER, PREFILL_DECODE
from .compiled import Caches, Graph, compile_model
from .statistics import Stopwatch

# What LiteRT-LM writes into masked columns of a float mask, by dtype; a bool mask is True where a token may look.
_MASKED = {"float32": -0.7 * float(np.finfo(np.float32).max), "float16": -45824.0}
_PARAMETERS_SHAPE = (1, 1, 1, 7)
# A prefill is padded only if at least this share of it is real tokens.
_FILLED_ENOUGH = 0.5


@dataclass(frozen=True)
class TargetRows:
    """What the target says after each of T tokens: `logits` `[T, V]`, `activations` `[T, D]` (None if not returned)."""

    logits: np.ndarray
    activations: np.ndarray | None


class Engine:
    """The compiled models of one bundle and their KV caches: one sequence, one step at a time.

    Attributes:
        contract: signatures and shapes.
        caches: the KV buffers by tensor name, those of the last step.
        clock: seconds and calls by kind of step (`prefill`, `decode`, `verify`, `draft`).
    """

    def __init__(self, bundle: OpenBundle, threads: int) -> None:
        """Compile every model of `bundle` for the CPU.

        Raises:
            UserError: LiteRT refuses a model.
        """
        self.contract = contract = bundle.contract
        self._signatures = {name: [s.name for s in source.info.signatures] for name, source in bundle.models.items()}
        self.clock = Stopwatch()
        models = {
            # A lookup is too short to share among threads.
            name: compile_model(source, 1 if name.endswith(EMBEDDER) else threads)
            for name, source in bundle.models.items()
        }
        target = models[PREFILL_DECODE]
        steps = (*contract.prefills, contract.decode, *contract.verifies)
        self._graphs = {step.name: Graph(target, step.info) for step in steps}
        self._drafter = Graph(models[MTP_DRAFTER], contract.drafter.info) if contract.drafter else None
        self._embedder = Graph(models[EMBEDDER], contract.embedder)
        self._per_layer = (
            Graph(models[PER_LAYER_EMBEDDER], contract.per_layer_embedder) if contract.per_layer_embedder else None
        )
        decode = self._graphs[contract.decode.name]
        self.caches = decode.create_caches()
        # Without param_tensor a graph need not write in place: two banks take turns, as in LiteRT-LM.
        self._spare: Caches | None = None if contract.decode.parameters else decode.create_caches()

    def runs(self, model: str) -> dict[str, int]:
        """How often each signature of a model has run; 0 for one that this runtime has no use for."""
        graphs = {
            PREFILL_DECODE: self._graphs,
            MTP_DRAFTER: _by_name(self._drafter),
            EMBEDDER: _by_name(self._embedder),
            PER_LAYER_EMBEDDER: _by_name(self._per_layer),
        }[model]
        return {name: graphs[name].runs if name in graphs else 0 for name in self._signatures.get(model, ())}

    def embed(self, tokens: Sequence[int]) -> dict[str, np.ndarray]:
        """Inputs that depend on the tokens only: `embeddings` `[1, T, D]` and, where the target takes them,
        `per_layer_embeddings` `[1, T, layers, ple_dim]`."""
        looked_up = {"embeddings": self._embedder}
        if self._per_layer:
            looked_up["per_layer_embeddings"] = self._per_layer
        return {name: np.concatenate([_look_up(graph, t) for t in tokens], axis=1) for name, graph in looked_up.items()}

    def prefill(self, tokens: Sequence[int], slot: int) -> None:
        """Write the cache rows of `tokens` from `slot` on, in chunks of the lengths that the bundle has."""
        with self.clock.time("prefill"):
            for step, first, last in self.prefill_plan(len(tokens), slot):
                self._run_target(step, tokens[first:last], slot + first)

    def prefill_plan(self, count: int, slot: int) -> list[tuple[StepSignature, int, int]]:
        """How `prefill` runs `count` tokens from `slot` on: signature, first token, last token + 1 of each chunk."""
        plan: list[tuple[StepSignature, int, int]] = []
        done = 0
        while done < count:
            step = self._prefill_for(count - done, slot + done)
            plan.append((step, done, min(count, done + step.tokens)))
            done = plan[-1][2]
        return plan

    def decode(self, token: int, slot: int) -> TargetRows:
        """Run `token` in `slot`; one row."""
        with self.clock.time("decode"):
            return self._run_rows(self.contract.decode, [token], slot)

    def verify(self, tokens: Sequence[int], slot: int) -> TargetRows:
        """Run `tokens`, the newest and its drafts, from `slot` on in one pass; a row for each.

        Takes the shortest verify signature that they fit into; its further rows are written too, and overwritten by
        later steps. The signature must end within the caches: see `fitting_draft`.
        """
        step = next(step for step in self.contract.verifies if step.tokens >= len(tokens))
        with self.clock.time("verify"):
            return self._run_rows(step, tokens, slot)

    def run_step(self, step: StepSignature, tokens: Sequence[int], slot: int) -> TargetRows | None:
        """Run `tokens`, at most the signature's, from `slot` on by `step` itself; None from one that returns no logits.

        The signature must end within the caches.
        """
        if any(tensor.name == "logits" for tensor in step.info.outputs):
            return self._run_rows(step, tokens, slot)
        self._run_target(step, tokens, slot)
        return None

    def fitting_draft(self, wanted: int, slot: int) -> int:
        """The longest draft, at most `wanted`, whose verify pass from `slot` on stays within the caches or may overrun
        them."""
        end = self.contract.slots
        lengths = [s.tokens - 1 for s in self.contract.verifies if slot + s.tokens <= end or s.columns > end]
        return min(wanted, max(lengths, default=0))

    def draft_step(self, token: int, activation: np.ndarray, slot: int) -> tuple[np.ndarray, np.ndarray]:
        """One draft step after `token`; slots 0..slot-1 are processed, and the drafter's position is `slot - 1`.

        Args:
            token: the newest token, or the last drafted one.
            activation: `[D]`, the target's after the last processed token, or the last step's projected activation.
            slot: where the newest token of the round will go; the same in every step of a round.

        Returns:
            Logits `[V]` and projected activation `[D]`.
        """
        drafter, graph = self.contract.drafter, self._drafter
        if drafter is None or graph is None:
            raise ValueError("the bundle has no drafter")
        with self.clock.time("draft"):
            embedding = _look_up(self._embedder, token).reshape(-1)
            inputs = self._step_inputs(drafter, 1, slot - 1)
            inputs["activations"] = np.concatenate((embedding, activation)).reshape(1, 1, -1)
            graph.run(inputs, self.caches, {})
            return graph.output("logits").reshape(-1), graph.output("projected_activations").reshape(-1)

    def read_cache(self, name: str) -> np.ndarray:
        """A copy of a whole cache tensor, for comparisons; decoding itself never reads one."""
        shape, dtype = self.contract.decode.cache_inputs[name]
        return self.caches[name].read(int(np.prod(shape)), np.dtype(dtype)).reshape(shape)

    def write_cache(self, name: str, values: np.ndarray) -> None:
        """Replace a whole cache tensor by `values` of its shape, for comparisons."""
        _, dtype = self.contract.decode.cache_inputs[name]
        self.caches[name].write(np.ascontiguousarray(values, dtype))

    def _prefill_for(self, count: int, slot: int) -> StepSignature:
        """The signature for the next of `count` tokens: the longest that they fill, or one that they nearly fill."""
        steps = [step for step in self.contract.prefills if slot + step.tokens <= self.contract.slots]
        padded = next((step for step in steps if step.tokens >= count >= step.tokens * _FILLED_ENOUGH), None)
        filled = [step for step in steps if step.tokens <= count]
        if padded or filled:
            return padded or filled[-1]
        return steps[0] if steps else self.contract.decode

    def _run_rows(self, step: StepSignature, tokens: Sequence[int], slot: int) -> TargetRows:
        graph = self._run_target(step, tokens, slot)
        logits = graph.output("logits").reshape(-1, self.contract.vocabulary)[: len(tokens)]
        if not graph.has_output("activations"):
            return TargetRows(logits, None)
        return TargetRows(logits, graph.output("activations").reshape(-1, self.contract.hidden)[: len(tokens)])

    def _run_target(self, step: StepSignature, tokens: Sequence[int], slot: int) -> Graph:
        graph = self._graphs[step.name]
        padding = [0] * (step.tokens - len(tokens))
        inputs = {**self.embed([*tokens, *padding]), **self._step_inputs(step, len(tokens), slot)}
        written = self._spare or self.caches
        graph.run(inputs, self.caches, written)
        if self._spare:
            self.caches, self._spare = written, self.caches
        return graph

    def _step_inputs(self, step: StepSignature, count: int, slot: int) -> dict[str, np.ndarray]:
        """Positions, mask and parameters of `count` tokens from `slot` on; padding is at position 0, fully masked."""
        end = slot + count
        positions = np.zeros(step.tokens, np.int32)
        positions[:count] = np.arange(slot, end)
        visible = np.arange(step.columns) <= positions[:, None]  # [T, columns]
        visible[count:] = False
        inputs = {step.positions: positions, step.mask: _mask(visible, step.mask_dtype)}
        if step.parameters:
            parameters = np.zeros(_PARAMETERS_SHAPE, np.int32)
            parameters.flat[:3] = slot, end, end
            inputs[step.parameters] = parameters
        return inputs


def _by_name(graph: Graph | None) -> dict[str, Graph]:
    return {graph.info.name: graph} if graph else {}


def _mask(visible: np.ndarray, dtype: str) -> np.ndarray:
    """`[1, 1, T, columns]` of the graph's dtype from `visible` `[T, columns]`, True where a token may look."""
    if dtype == "bool":
        return visible[None, None]
    return np.where(visible, 0, _MASKED[dtype]).astype(dtype)[None, None]


def _look_up(graph: Graph, token: int) -> np.ndarray:
    info = graph.info
    graph.run({info.inputs[0].name: np.array([token], np.int32)}, {}, {})
    return graph.output(info.outputs[0].name)
