"""Do decode, verify and prefill compute the same, bit for bit?

On the CPU the difference was zero in every case tried, and MTP changes no text because of it.
"""

from __future__ import annotations

from ..report.measures import Worst, range_error
from ..report.report import Stage
from .caches import read_rows
from .target import Setup, SlotRun, activations_of, stacked


def exactness_stage(stage: Stage, setup: Setup, runs: list[SlotRun]) -> None:
    """The signatures against one another: at the probe's slots, in other chunks, with other draft lengths."""
    found = {
        "decode, verify and prefill: difference": _at_slots(setup, runs),
        "prefill in other chunks: difference": _in_other_chunks(setup),
        "other verify lengths: difference": _of_other_lengths(setup),
    }
    for name, worst in found.items():
        if worst.value is not None:
            stage.at_most(name, worst.value, setup.limits.bits, worst.where if worst.value else "")
    stage.note("bit for bit equal", "no" if any(worst.value for worst in found.values()) else "yes")


def _at_slots(setup: Setup, runs: list[SlotRun]) -> Worst:
    """Each row of a verify pass against the decode step at that slot, and the cache rows of all three."""
    worst = Worst()
    for run in runs:
        where = f"slot {run.slot} ({setup.probe.slots[run.slot]})"
        worst.add(range_error(run.verify.logits, run.decode.logits), f"logits of verify and decode, {where}")
        activations = activations_of(run.verify), activations_of(run.decode)
        worst.add(range_error(*activations), f"activations of verify and decode, {where}")
        written = zip(run.prefilled, run.decoded, run.verified, strict=True)
        for layer, of_layer in enumerate(written):
            at = f"layer {layer}, {where}"
            for before, one, many in zip(*of_layer, strict=True):
                worst.add(range_error(many, one), f"cache rows of verify and decode, {at}")
                if (count := before.shape[1]) > 0:
                    worst.add(range_error(before, one[:, :count]), f"cache rows of prefill and decode, {at}")
    return worst


def _in_other_chunks(setup: Setup) -> Worst:
    """Rows of shorter prefills, whose chunks are cut or padded otherwise, against those of the long one."""
    engine, probe, worst = setup.engine, setup.probe, Worst()
    layers = range(setup.oracle.own_layers)
    count = max(probe.slots)
    engine.prefill(probe.tokens[:count], 0)
    whole = [read_rows(engine, layer, 0, count) for layer in layers]
    shortest = engine.contract.prefills[0].tokens
    for length in sorted({1, shortest - 1, shortest + 1, 2 * shortest + 3}):
        if not 0 < length <= count:
            continue
        engine.prefill(probe.tokens[:length], 0)
        for layer in layers:
            pairs = zip(("keys", "values"), read_rows(engine, layer, 0, length), whole[layer], strict=True)
            for kind, ours, theirs in pairs:
                worst.add(range_error(ours, theirs[:, :length]), f"{kind} of layer {layer}, prefill of {length} tokens")
    return worst


def _of_other_lengths(setup: Setup) -> Worst:
    """Verify signatures of further draft lengths against decode, as far over the window as the probe has tokens."""
    engine, tokens, worst = setup.engine, setup.probe.tokens, Worst()
    for step in engine.contract.verifies:
        slot = min(setup.oracle.config.sliding_window, len(tokens) - step.tokens)
        if step.tokens == setup.probe.draft_tokens + 1 or slot < 0:
            continue
        engine.prefill(tokens[:slot], 0)
        decode = stacked([engine.decode(tokens[at], at) for at in range(slot, slot + step.tokens)])
        verify = engine.verify(tokens[slot : slot + step.tokens], slot)
        worst.add(range_error(verify.logits, decode.logits), f"logits of {step.name} and decode, slot {slot}")
        activations = activations_of(verify), activations_of(decode)
        worst.add(range_error(*activations), f"activations of {step.name} and decode, slot {slot}")
    return worst
