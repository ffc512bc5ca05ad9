"""The stage of every weight: each constant of each model, dequantized, against the checkpoint's own parameter."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...bundle.constants import Constant, ModelConstants
from ...bundle.names import HEAD_TOKENS, MTP_DRAFTER, PREFILL_DECODE
from ..oracle.oracle import Oracle
from ..report.coverage import Layout
from ..report.report import Stage
from ..weights.gathered import with_rows
from ..weights.parameters import Parameter, expected_parameters
from ..weights.stored import Difference, compare

# Constants of more values that are no parameter must be made by a rule: all equal, or in equal steps.
_SMALL = 64


@dataclass(frozen=True)
class Match:
    """A constant and the parameter that it is called after."""

    constant: Constant
    parameter: Parameter


def weights_stage(
    stage: Stage, layout: Layout, oracle: Oracle, on_progress: Callable[[str], None] = lambda detail: None
) -> None:
    """Compare every weight of the models in `layout` with the oracle's checkpoints; what is compared is marked there.

    Args:
        stage: gets the checks.
        layout: the bundle's bytes and constants.
        oracle: whose `target_weights` and `drafter_weights` are read block by block.
        on_progress: gets what is read.
    """
    constants = {model: with_rows(found) for model, found in layout.constants.items()}
    drafters = constants[MTP_DRAFTER].constants if MTP_DRAFTER in constants else []
    parameters = expected_parameters(oracle, scatters=any(constant.name == HEAD_TOKENS for constant in drafters))
    matches = {model: list(_matches(model, found, parameters)) for model, found in constants.items()}
    found = {id(match.parameter) for entries in matches.values() for match in entries}
    missing = [
        f"{parameter.model} has no {' or '.join(parameter.names)}"
        for parameter in parameters
        if id(parameter) not in found
    ]
    stage.holds("every parameter of both checkpoints is there", missing)
    unknown = [line for model, entries in matches.items() for line in _unknown(model, constants[model], entries)]
    stage.holds("no constant that is no parameter's", unknown)
    disagreeing = [
        line for model, entries in matches.items() for line in _disagreeing(model, constants[model], entries)
    ]
    stage.holds("all signatures use the same weights and constants", disagreeing)
    for model, entries in matches.items():
        differences = []
        steps = 0.0
        for number, match in enumerate(entries, 1):
            on_progress(f"{model}: {match.constant.name}, {number} of {len(entries)}")
            compared = compare(match.constant, match.parameter)
            steps = max(steps, compared.steps)
            if compared.difference:
                differences.append((match.constant, compared.difference))
            layout.mark(model, match.constant, same=compared.difference is None or compared.difference.rows > 0)
        stage.holds(f"{model}: every weight is the checkpoint's", _worst_first(model, differences))
        if steps:
            stage.note(f"{model}: largest rounding error, in steps", steps)
    stage.holds("nothing lies between tensors and sections", layout.stray_bytes())


def _matches(model: str, constants: ModelConstants, parameters: Sequence[Parameter]) -> Iterator[Match]:
    by_name = {name: parameter for parameter in parameters if parameter.model == model for name in parameter.names}
    for constant in constants.constants:
        if constant.name in by_name:
            yield Match(constant, by_name[constant.name])


def _worst_first(model: str, differences: Sequence[tuple[Constant, Difference]]) -> list[str]:
    ranked = sorted(differences, key=lambda entry: -entry[1].severity)
    return [f"{model}: {constant.name}, {difference.text}" for constant, difference in ranked]


def _unknown(model: str, constants: ModelConstants, matches: Sequence[Match]) -> Iterator[str]:
    known = {id(match.constant) for match in matches}
    scales = {place for match in matches for place in match.constant.parameters}
    for constant in constants.constants:
        outside = constant.place[0] >= constants.flatbuffer_end
        if (
            id(constant) in known
            or constant.place in scales
            or (constant.elements <= _SMALL and not outside)
            or _is_regular(constant)
        ):
            continue
        yield f"{model}: {constant.name or 'a constant'}, {constant.dtype} {list(constant.shape)}, is no parameter's"


def _is_regular(constant: Constant) -> bool:
    """All values equal, or in equal steps, as the columns that a mask is compared with."""
    if constant.quantization or constant.dtype not in ("float32", "float16", "int32", "int64", "bool"):
        return False
    values = np.frombuffer(constant.content, constant.dtype)
    values = values.astype(np.int8 if constant.dtype == "bool" else values.dtype)
    return len(values) == constant.elements and bool((np.diff(values) == values[1:2] - values[:1]).all())


def _disagreeing(model: str, constants: ModelConstants, matches: Sequence[Match]) -> Iterator[str]:
    """Weights and small constants that one signature has otherwise than the others of its kind."""
    by_parameter: dict[str, list[Constant]] = {}
    for match in matches:
        by_parameter.setdefault(match.parameter.name, []).append(match.constant)
    for name, uses in by_parameter.items():
        if len({use.name for use in uses}) > 1 or _differ(uses):
            places = " and ".join(_signatures(use.signatures) for use in uses)
            yield f"{model}: {name} in {places}: other bytes, scales or form in each"
    for family in _families(model, constants):
        first = family[0]
        for other in family[1:]:
            used = {
                signature: {name for name, uses in by_parameter.items() for use in uses if signature in use.signatures}
                for signature in (first, other)
            }
            for name in sorted(used[first] ^ used[other]):
                there, lacking = (first, other) if name in used[first] else (other, first)
                yield f"{model}: {lacking} does not use {name}, {there} does"
            small = [constants.small.get(signature, {}) for signature in (first, other)]
            changed = [
                entry
                for entry in {*small[0], *small[1]}
                # How many zeros there are depends on which products run block by block, and so on the rows of a pass.
                if any(entry[1]) and small[0].get(entry) != small[1].get(entry)
            ]
            for dtype, content in sorted(changed)[:1]:
                uses = [entry.get((dtype, content), 0) for entry in small]
                value = _value(dtype, content)
                yield f"{model}: {value} is a constant {uses[0]} times in {first}, {uses[1]} times in {other}"


def _differ(uses: Sequence[Constant]) -> bool:
    return len({(use.place, use.quantization.key if use.quantization else None) for use in uses}) > 1


def _families(model: str, constants: ModelConstants) -> list[list[str]]:
    """Signatures that run the same layers for other numbers of tokens."""
    names = sorted({name for constant in constants.constants for name in constant.signatures})
    if model != PREFILL_DECODE:
        return [names] if names else []
    groups: Mapping[str, list[str]] = {"prefill": [], "decode": [], "": []}
    for name in names:
        kind = "prefill" if name.startswith("prefill") else "decode" if name.startswith(("decode", "verify")) else ""
        groups[kind].append(name)
    return [group for kind, group in groups.items() if kind and group]


def _signatures(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)) or "no signature"


def _value(dtype: str, content: bytes) -> str:
    values = np.frombuffer(content, dtype)
    return f"{values[0]:.6g}" + (f", ... ({math.prod(values.shape)} values)" if len(values) > 1 else "")
