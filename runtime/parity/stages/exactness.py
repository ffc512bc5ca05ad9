"""Do decode, verify and prefill compute the same, bit for bit, by every signature that the bundle has?

On the CPU the difference was zero in every case tried, and MTP changes no text because of it.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...bundle.names import PREFILL_DECODE
from ..report.measures import Worst, range_error
from ..report.report import Stage
from .caches import KeyValue, clear_rows, read_rows
from .target import Setup, SlotRun, activations_of, never_run, stacked


def exactness_stage(stage: Stage, setup: Setup, runs: list[SlotRun]) -> None:
    """The signatures against one another: at the probe's slots, in other chunks, and each length by itself."""
    found = {"decode, verify and prefill: difference": _at_slots(setup, runs)}
    # The reference: rows of the plan that the prefill stage held against the oracle.
    count = max(setup.probe.slots)
    setup.engine.prefill(setup.probe.tokens[:count], 0)
    reference = _rows(setup, count)
    found["prefill in other chunks: difference"] = _in_other_chunks(setup, reference)
    found["each prefill length: difference"] = _of_each_prefill(setup, reference)
    found["each verify length: difference"] = _of_each_verify(setup, reference)
    for name, worst in found.items():
        if worst.value is not None:
            stage.at_most(name, worst.value, setup.limits.bits, worst.where if worst.value else "")
    stage.holds("every signature was run", never_run(setup.engine, PREFILL_DECODE))
    stage.note("bit for bit equal", "no" if any(worst.value for worst in found.values()) else "yes")


def _at_slots(setup: Setup, runs: list[SlotRun]) -> Worst:
    """Each row of a verify pass against the decode step at that slot, and the cache rows of all three."""
    worst = Worst()
    for run in runs:
        where = f"slot {run.slot} ({setup.probe.slots[run.slot]})"
        worst.add(range_error(run.verify.logits, run.decode.logits), f"logits of verify and decode, {where}")
        activations = activations_of(run.verify), activations_of(run.decode)
        worst.add(range_error(*activations), f"activations of verify and decode, {where}")
        _add_rows(worst, run.verified, run.decoded, f"verify and decode, {where}")
        _add_rows(worst, run.prefilled, run.decoded, f"prefill and decode, {where}")
    return worst


def _in_other_chunks(setup: Setup, reference: list[KeyValue]) -> Worst:
    """Rows of shorter prefills, whose chunks are cut or padded otherwise."""
    engine, probe, worst = setup.engine, setup.probe, Worst()
    shortest = engine.contract.prefills[0].tokens
    for length in sorted({1, shortest - 1, shortest + 1, 2 * shortest + 3}):
        if 0 < length <= max(probe.slots):
            clear_rows(engine, _layers(setup), 0, length)
            engine.prefill(probe.tokens[:length], 0)
            _add_rows(worst, _rows(setup, length), reference, f"a prefill of {length} tokens")
    # What a padded chunk wrote behind its tokens is written again.
    engine.prefill(probe.tokens[: max(probe.slots)], 0)
    return worst


def _of_each_prefill(setup: Setup, reference: list[KeyValue]) -> Worst:
    """Each prefill signature by itself; all rows are compared, so that one that writes elsewhere is seen as well."""
    engine, tokens, worst = setup.engine, setup.probe.tokens, Worst()
    count = max(setup.probe.slots)
    for step in engine.contract.prefills:
        for slot in _starts(setup, step.tokens, count):
            end = min(slot + step.tokens, count)
            clear_rows(engine, _layers(setup), slot, end)
            engine.run_step(step, tokens[slot:end], slot)
            _add_rows(worst, _rows(setup, count), reference, f"{step.name} from slot {slot}")
    return worst


def _of_each_verify(setup: Setup, reference: list[KeyValue]) -> Worst:
    """Each verify signature by itself against decode: logits, activations, and all rows."""
    engine, tokens, worst = setup.engine, setup.probe.tokens, Worst()
    for step in engine.contract.verifies:
        for slot in _starts(setup, step.tokens, len(tokens) - step.tokens + 1):
            end = slot + step.tokens
            clear_rows(engine, _layers(setup), slot, end)
            decode = stacked([engine.decode(tokens[at], at) for at in range(slot, end)])
            decoded = _rows(setup, end)
            clear_rows(engine, _layers(setup), slot, end)
            verify = engine.run_step(step, tokens[slot:end], slot)
            if verify is None:
                raise ValueError(f"{step.name} returns no logits")
            where = f"{step.name} and decode, from slot {slot}"
            worst.add(range_error(verify.logits, decode.logits), f"logits of {where}")
            worst.add(range_error(activations_of(verify), activations_of(decode)), f"activations of {where}")
            _add_rows(worst, _rows(setup, end), decoded, where)
            _add_rows(worst, decoded, reference, f"decode and prefill, from slot {slot}")
    return worst


def _starts(setup: Setup, length: int, end: int) -> list[int]:
    """Slots below `end` from which `length` tokens lie before, over and behind the sliding window's edge, at the
    beginning and at the end, within the caches with all their padding."""
    window, room = setup.oracle.config.sliding_window, setup.engine.contract.slots - length
    wanted = {0, window - length, window - length // 2, window, min(room, end - 1)}
    return sorted(slot for slot in wanted if 0 <= slot < end and slot <= room)


def _layers(setup: Setup) -> range:
    return range(setup.oracle.own_layers)


def _rows(setup: Setup, count: int) -> list[KeyValue]:
    return [read_rows(setup.engine, layer, 0, count) for layer in _layers(setup)]


def _add_rows(worst: Worst, ours: Iterable[KeyValue], theirs: Iterable[KeyValue], where: str) -> None:
    """Add the difference of two sets of cache rows, as far as both go."""
    for layer, of_layer in enumerate(zip(ours, theirs, strict=True)):
        for kind, mine, other in zip(("keys", "values"), *of_layer, strict=True):
            count = min(mine.shape[1], other.shape[1])
            if count:
                worst.add(range_error(mine[:, :count], other[:, :count]), f"{kind} of layer {layer}: {where}")
