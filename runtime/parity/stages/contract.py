"""Stage 1: does the bundle hold what LiteRT-LM demands, with the shapes of the checkpoint?"""

from __future__ import annotations

from collections.abc import Iterator

from ...bundle.context.placeholder import is_placeholder
from ...bundle.contract import MASK_DTYPES, Contract, StepSignature
from ...bundle.inspection import Inspection
from ..oracle.oracle import Oracle
from ..report.report import Stage
from .caches import cache_names

_CACHE_DTYPES = ("float32", "float16", "int8")

Shape = tuple[int, ...]


def contract_stage(stage: Stage, inspection: Inspection, contract: Contract, oracle: Oracle) -> None:
    """Names, dtypes and shapes of every signature; the KV signature; metadata."""
    stage.holds("all that LiteRT-LM needs for MTP", inspection.problems())
    stage.holds("target: inputs and outputs", list(_target_problems(contract, oracle)))
    stage.holds("target: caches of the checkpoint's layers", list(_cache_problems(contract, oracle)))
    stage.holds("drafter: inputs and outputs", list(_drafter_problems(contract, oracle)))
    stage.holds("drafter: reads the last layer of each type", list(_shared_problems(contract, oracle)))
    stage.holds("caches: one scale each, wherever it is named", list(contract.scale_problems))
    stage.note("draft tokens", float(contract.default_draft_tokens))
    stage.note("cache slots", float(contract.slots))
    stage.note("caches are stored as", ", ".join(inspection.kv_dtypes))


def _target_problems(contract: Contract, oracle: Oracle) -> Iterator[str]:
    hidden, vocabulary = oracle.config.hidden_size, oracle.config.vocab_size
    layers, ple = oracle.config.num_hidden_layers, oracle.config.hidden_size_per_layer_input
    for step in (*contract.prefills, contract.decode, *contract.verifies):
        # A verify pass may overrun a context that was chosen at load, so its mask has columns beyond.
        overruns = contract.placeholder is not None and step in contract.verifies
        yield from _step_problems(step, contract.slots * (2 if overruns else 1))
        expected: dict[str, tuple[Shape, str]] = {"embeddings": ((1, step.tokens, hidden), "float32")}
        if ple:
            expected["per_layer_embeddings"] = ((1, step.tokens, layers, ple), "float32")
        yield from _differences(step, expected, written=False)
        if step not in contract.prefills:
            outputs: dict[str, tuple[Shape, str]] = {
                "logits": ((1, step.tokens, vocabulary), "float32"),
                "activations": ((1, step.tokens, hidden), "float32"),
            }
            yield from _differences(step, outputs, written=True)
        if step.info.caches(written=True) != step.cache_inputs:
            yield f"{step.name} does not return the caches that it takes"
        if step in contract.prefills and is_placeholder(step.tokens):
            yield f"{step.name} has a prime length, which LiteRT-LM takes for a placeholder"


def _step_problems(step: StepSignature, columns: int) -> Iterator[str]:
    tensors = {tensor.name: tensor for tensor in step.info.inputs}
    positions, mask = tensors[step.positions], tensors[step.mask]
    if (positions.dtype, len(positions.shape)) != ("int32", 1):
        yield f"{step.name}: {positions.name} is {positions.dtype} {list(positions.shape)}, expected int32 [T]"
    if mask.dtype not in MASK_DTYPES or mask.shape != (1, 1, step.tokens, columns):
        yield f"{step.name}: mask is {mask.dtype} {list(mask.shape)}, expected [1, 1, {step.tokens}, {columns}]"
    if step.parameters is None:
        yield f"{step.name} takes no param_tensor, without which MTP fails on the GPU"
    elif (found := tensors[step.parameters]).shape != (1, 1, 1, 7) or found.dtype != "int32":
        yield f"{step.name}: param_tensor is {found.dtype} {list(found.shape)}, expected int32 [1, 1, 1, 7]"


def _cache_problems(contract: Contract, oracle: Oracle) -> Iterator[str]:
    expected: dict[str, Shape] = {}
    for layer in range(oracle.own_layers):
        attention = oracle.config.per_layer_config[layer]
        heads, head_dim = attention.num_key_value_heads, attention.head_dim
        key, value = cache_names(layer)
        expected[key], expected[value] = (1, heads, contract.slots, head_dim), (1, heads, head_dim, contract.slots)
    found = contract.decode.cache_inputs
    for name in sorted(expected.keys() ^ found.keys()):
        yield f"{name} is {'missing' if name in expected else 'of no layer with a cache of its own'}"
    for name in sorted(expected.keys() & found.keys()):
        shape, dtype = found[name]
        if shape != expected[name] or dtype not in _CACHE_DTYPES:
            yield f"{name} is {dtype} {list(shape)}, expected {list(expected[name])}"


def _drafter_problems(contract: Contract, oracle: Oracle) -> Iterator[str]:
    if contract.drafter is None:
        yield "there is no mtp_drafter"
        return
    hidden, vocabulary = oracle.config.hidden_size, oracle.config.vocab_size
    yield from _step_problems(contract.drafter, contract.slots)
    yield from _differences(contract.drafter, {"activations": ((1, 1, 2 * hidden), "float32")}, written=False)
    outputs: dict[str, tuple[Shape, str]] = {
        "logits": ((1, 1, vocabulary), "float32"),
        "projected_activations": ((1, 1, hidden), "float32"),
    }
    yield from _differences(contract.drafter, outputs, written=True)


def _shared_problems(contract: Contract, oracle: Oracle) -> Iterator[str]:
    if contract.drafter is None:
        return
    kinds = set(oracle.drafter_config.get_text_config().layer_types)
    layers = [layer for kind, layer in oracle.shared_layers().items() if kind in kinds]
    expected = {name for layer in layers for name in cache_names(layer)}
    found = set(contract.drafter.cache_inputs)
    if found != expected:
        yield f"it reads {', '.join(sorted(found))}, expected {', '.join(sorted(expected))}"


def _differences(step: StepSignature, expected: dict[str, tuple[Shape, str]], *, written: bool) -> Iterator[str]:
    tensors = {tensor.name: tensor for tensor in (step.info.outputs if written else step.info.inputs)}
    for name, (shape, dtype) in expected.items():
        found = tensors.get(name)
        if found is None:
            yield f"{step.name} {'returns' if written else 'takes'} no {name}"
        elif (found.shape, found.dtype) != (shape, dtype):
            yield f"{step.name}: {name} is {found.dtype} {list(found.shape)}, expected {dtype} {list(shape)}"
