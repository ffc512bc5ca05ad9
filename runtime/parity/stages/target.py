"""The target's stages: embedders, prefill, decode and verify."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...bundle.names import EMBEDDER, PER_LAYER_EMBEDDER
from ...decoding.engine import Engine, TargetRows
from ..oracle.oracle import Oracle, TargetPass
from ..report.measures import (
    Agreement,
    Worst,
    cosine,
    kl_divergence,
    mean_range_error,
    range_error,
    relative_error,
    size_error,
    top_overlap,
)
from ..report.report import Stage
from ..report.thresholds import Thresholds
from .caches import KeyValue, clear_rows, read_rows
from .probe import Probe

_MOST_TOKENS = 512  # That are looked up in the embedders' comparison.
_SCATTER_POINTS = 1_500


@dataclass(frozen=True)
class Setup:
    """What the stages work on; `truth` is the oracle's pass over the probe's tokens."""

    engine: Engine
    oracle: Oracle
    probe: Probe
    truth: TargetPass
    limits: Thresholds


def embedders_stage(stage: Stage, setup: Setup) -> None:
    """Embeddings of tokens from all of the vocabulary, and of the probe's."""
    vocabulary = setup.oracle.config.vocab_size
    spread = range(0, vocabulary, max(1, vocabulary // 128))
    tokens = sorted({*spread, vocabulary - 1, *setup.probe.tokens[:_MOST_TOKENS]})
    ours = setup.engine.embed(tokens)
    expected = {"embeddings": setup.oracle.embed(tokens)}
    if "per_layer_embeddings" in ours:
        expected["per_layer_embeddings"] = setup.oracle.embed_per_layer(tokens)
    for name, theirs in expected.items():
        errors = np.abs(ours[name][0] - theirs).reshape(len(tokens), -1).max(axis=1)
        where = f"token {tokens[int(errors.argmax())]}"
        stage.at_most(
            f"{name.replace('_', '-')}: error", range_error(ours[name][0], theirs), setup.limits.embeddings, where
        )
    stage.holds("every signature was run", never_run(setup.engine, EMBEDDER, PER_LAYER_EMBEDDER))
    stage.note("tokens compared", float(len(tokens)))


def never_run(engine: Engine, *models: str) -> list[str]:
    """Signatures of the models that no step has run: nothing is known of them."""
    return [f"{model}'s {name} was not" for model in models for name, runs in engine.runs(model).items() if not runs]


def prefill_stage(stage: Stage, setup: Setup) -> None:
    """Every cache tensor after prefill of the whole probe, over several chunks and the sliding window."""
    engine, probe = setup.engine, setup.probe
    count = max(probe.slots)
    engine.prefill(probe.tokens[:count], 0)
    worst, relative, sizes = Worst(), Worst(), Worst()
    errors: dict[str, list[float]] = {"keys": [], "values": []}
    for layer, truth in enumerate(setup.truth.caches):
        for kind, ours, theirs in zip(errors, read_rows(engine, layer, 0, count), truth, strict=True):
            theirs = theirs[:, :count]
            errors[kind].append(relative_error(ours, theirs))
            at = int(np.abs(ours - theirs).max(axis=(0, 2)).argmax()) if count else 0
            worst.add(range_error(ours, theirs), f"{kind} of layer {layer}, slot {at}")
            relative.add(errors[kind][-1], f"{kind} of layer {layer}")
            sizes.add(size_error(ours, theirs), f"{kind} of layer {layer}")
    stage.at_most("caches: largest error", worst.value or 0.0, setup.limits.cache, worst.where)
    stage.at_most("caches: norm of the error", relative.value or 0.0, setup.limits.cache_relative, relative.where)
    stage.at_most("caches: size", sizes.value or 0.0, setup.limits.cache_size, sizes.where)
    stage.note("slots", float(count))
    stage.note("chunks", float(len(engine.prefill_plan(count, 0))))
    stage.plots["error_by_layer"] = errors


@dataclass(frozen=True)
class SlotRun:
    """What the bundle says from one slot on: `decode`, row after row; `verify`, the same rows in one pass; and the
    cache rows that prefill (as far as it went), decode and verify wrote, by layer."""

    slot: int
    decode: TargetRows
    verify: TargetRows
    prefilled: list[KeyValue]
    decoded: list[KeyValue]
    verified: list[KeyValue]


def run_slots(setup: Setup) -> list[SlotRun]:
    """Decode and verify at every slot of the probe. Prefill of the whole probe must have run.

    From the last slot to the first, so that all rows before a slot are those that prefill wrote. Rows are cleared
    before each pass: those that are found after it are its own.
    """
    engine, tokens, rows = setup.engine, setup.probe.tokens, setup.probe.draft_tokens + 1
    prefilled_to = max(setup.probe.slots)
    layers, runs = range(setup.oracle.own_layers), []
    for slot in sorted(setup.probe.slots, reverse=True):
        after = min(slot + rows, len(tokens))  # A pass that overruns the caches has rows that are not compared.
        prefilled = [read_rows(engine, layer, slot, min(after, prefilled_to)) for layer in layers]
        clear_rows(engine, layers, slot, after)
        steps = [engine.decode(tokens[at], at) for at in range(slot, after)]
        decoded = [read_rows(engine, layer, slot, after) for layer in layers]
        clear_rows(engine, layers, slot, after)
        verify = engine.verify(tokens[slot:after], slot)
        verified = [read_rows(engine, layer, slot, after) for layer in layers]
        runs.append(SlotRun(slot, stacked(steps), verify, prefilled, decoded, verified))
    return runs


def decode_stage(stage: Stage, setup: Setup, runs: list[SlotRun]) -> None:
    """Logits and activations of decode and verify against the oracle's."""
    error, cosines, sizes, logit_sizes = Worst(), Worst(low=True), Worst(), Worst()
    means, divergences, overlaps, points = [], [], [], []
    agreement = Agreement(setup.limits.near_tie)
    for run in runs:
        for name, rows in (("decode", run.decode), ("verify", run.verify)):
            for row, (ours, activation) in enumerate(zip(rows.logits, activations_of(rows), strict=True)):
                at = run.slot + row
                theirs, where = setup.truth.logits_at(at), f"{name}, slot {at} ({setup.probe.slots[run.slot]})"
                error.add(range_error(ours, theirs), where)
                means.append(mean_range_error(ours, theirs))
                divergences.append(kl_divergence(theirs, ours))
                overlaps.append(top_overlap(ours, theirs, 5))
                logit_sizes.add(size_error(ours, theirs), where)
                cosines.add(cosine(activation, setup.truth.activations[at]), where)
                sizes.add(size_error(activation, setup.truth.activations[at]), where)
                agreement.add(int(ours.argmax()), int(theirs.argmax()), theirs, where)
                points.append((theirs, ours))
    limits = setup.limits
    stage.at_most("logits: largest error", error.value or 0.0, limits.logits, error.where)
    stage.at_most("logits: mean error", float(np.max(means)), limits.logits_mean)
    stage.at_most("logits: size", logit_sizes.value or 0.0, limits.logits_size, logit_sizes.where)
    stage.at_most("KL divergence, nats", float(np.mean(divergences)), limits.kl)
    stage.agrees("same token (top-1)", agreement, limits.top1, limits.wrong)
    stage.at_least("top-5 in common", float(np.mean(overlaps)), limits.top5)
    stage.at_least("activations: cosine", cosines.value or 0.0, limits.activations, cosines.where)
    stage.at_most("activations: size", sizes.value or 0.0, limits.activations_size, sizes.where)
    stage.note("rows compared", float(len(points)))
    stage.plots["logits"] = _scatter(points)


def stacked(steps: list[TargetRows]) -> TargetRows:
    """The rows of several passes as one."""
    return TargetRows(
        np.concatenate([step.logits for step in steps]), np.concatenate([activations_of(step) for step in steps])
    )


def activations_of(rows: TargetRows) -> np.ndarray:
    """Activations `[T, D]` of a pass; only the contract's signatures, which return them, are run here."""
    if rows.activations is None:
        raise ValueError("the signature returns no activations")
    return rows.activations


def _scatter(rows: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, list[float]]:
    """Logits of both for a plot: of every row the largest, and evenly spaced others."""
    each = max(2, _SCATTER_POINTS // len(rows))
    theirs_points, ours_points = [], []
    for theirs, ours in rows:
        order = np.argsort(-theirs)
        places = np.unique(np.concatenate((order[: each // 2], order[:: max(1, len(order) // (each // 2))])))
        theirs_points += np.round(theirs[places], 4).tolist()
        ours_points += np.round(ours[places], 4).tolist()
    return {"oracle": theirs_points, "bundle": ours_points}
