"""Load graphs on ai-edge-litert's own WebGPU accelerator, each in a process of its own, since it can end the process.

That accelerator (2.3.0) crashes on graphs whose caches come from outside and on `odml.rms_norm`, which LiteRT-LM's
takes, so each graph is loaded without those operators: what they return becomes an input, what they take an output.
Weights are left out too, as a file that is all hole stands for them: whether a graph is taken does not depend on their
values. Graphs are loaded, not run. The child process: `python -m gemma_mtp.runtime.gpu.trial FILE`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from ..bundle.flatbuffer import operator_name, pack, parse
from ..bundle.names import CACHE_UPDATE, RMS_NORM, RUNTIME_BMM
from ..scratch import scratch_folder
from ..workers import run_worker

_LEFT_OUT = (CACHE_UPDATE, RUNTIME_BMM, RMS_NORM)
_ADAPTER = re.compile(r"Selected adapter: (.+)")
_NO_DEVICE = "Failed to initialize WebGPU environment"
_REFUSED = "Some ops are not accelerated"
_REFUSED_LIST = re.compile(r"not supported by GPU delegate:\n((?:[A-Za-z0-9_.]+: .*\n)+)")
_TAKEN = "the whole graph is on the GPU"
_ALIGNMENT = 64
_MINUTES = 10
# Weights inside a flatbuffer are packed anew, in memory.
_LARGEST_INSIDE = 1 << 29


@dataclass(frozen=True)
class Trial:
    """What came of loading one signature's graph.

    `taken` is None where nothing was tried. `left_out` counts the operators that were not loaded; `device` is the
    adapter as the accelerator names it.
    """

    model: str
    signature: str
    taken: bool | None
    reason: str
    left_out: dict[str, int]
    device: str | None


def try_model(name: str, content: bytes | memoryview) -> list[Trial]:
    """Load each signature's graph of `content`, a readable .tflite model that the bundle holds as `name`."""
    signatures = [signature.signatureKey.decode() for signature in parse(content).signatureDefs]
    return [_try(name, content, signature) for signature in signatures]


def _try(name: str, content: bytes | memoryview, signature: str) -> Trial:
    model = parse(content)
    left_out = _keep_only(model, signature)
    inside = sum(len(buffer.data) for buffer in model.buffers if buffer.data is not None)
    if inside > _LARGEST_INSIDE:
        return Trial(name, signature, None, f"{inside:,} bytes of weights lie inside the flatbuffer", left_out, None)
    with scratch_folder("gpu") as folder:
        path = folder / "graph.tflite"
        _write(model, path)
        try:
            code, log = run_worker(__name__, str(path), environment={"TMPDIR": str(folder)}, timeout=60 * _MINUTES)
        except subprocess.TimeoutExpired:
            return Trial(name, signature, None, f"gave up after {_MINUTES} minutes", left_out, None)
    found = _ADAPTER.search(log)
    device = found[1] if found else None
    taken, reason = _outcome(code, log)
    return Trial(name, signature, taken, reason, left_out, device)


def _outcome(code: int, log: str) -> tuple[bool | None, str]:
    if code == 0 and _TAKEN in log:
        return True, _TAKEN
    if _NO_DEVICE in log:
        return None, "no WebGPU device here"
    if _REFUSED in log:
        named = _REFUSED_LIST.search(log)
        return False, "; ".join(named[1].splitlines()) if named else "some operators are not taken"
    if code < 0:
        return False, f"ended the process (signal {-code})"
    last = next((line.strip() for line in reversed(log.splitlines()) if "Error" in line), f"exit code {code}")
    return False, last


def _keep_only(model: Any, key: str) -> dict[str, int]:
    """Cut `model` down to the graph of signature `key` without the operators of _LEFT_OUT, which are counted."""
    signature = next(entry for entry in model.signatureDefs if entry.signatureKey.decode() == key)
    graph = model.subgraphs[signature.subgraphIndex]
    kept, cut = [], []
    for operator in graph.operators:
        (cut if operator_name(model, operator) in _LEFT_OUT else kept).append(operator)
    read, written = _indices(kept, "inputs"), _indices(kept, "outputs")
    given, asked = [*graph.inputs, *_indices(cut, "outputs")], [*graph.outputs, *_indices(cut, "inputs")]
    _set_ends(graph, signature, [i for i in given if i in read], [i for i in asked if i in written])
    left_out = Counter(operator_name(model, operator) for operator in cut)
    graph.operators, model.signatureDefs = kept, [signature]
    _drop_others(model, graph, signature)
    return dict(left_out)


def _indices(operators: list[Any], side: str) -> dict[int, None]:
    return dict.fromkeys(int(index) for operator in operators for index in getattr(operator, side))


def _set_ends(graph: Any, signature: Any, inputs: list[int], outputs: list[int]) -> None:
    """New names, as those of caches mean something to the accelerator."""
    for side, indices in (("inputs", inputs), ("outputs", outputs)):
        entries = []
        for place, index in enumerate(dict.fromkeys(map(int, indices))):
            entry: Any = schema.TensorMapT()
            entry.name, entry.tensorIndex = f"{side}_{place}".encode(), index
            entries.append(entry)
        setattr(signature, side, entries)
        setattr(graph, side, np.array([entry.tensorIndex for entry in entries], dtype=np.int32))


def _drop_others(model: Any, graph: Any, signature: Any) -> None:
    """Keep `graph` and what its composites stand for; empty all buffers that nothing uses then."""
    kept: list[Any] = [graph]
    places: dict[int, int] = {}
    for member in kept:
        for operator in member.operators:
            composite = operator.builtinOptions2
            if isinstance(composite, schema.StableHLOCompositeOptionsT):
                index = composite.decompositionSubgraphIndex
                if index not in places:
                    places[index] = len(kept)
                    kept.append(model.subgraphs[index])
                composite.decompositionSubgraphIndex = places[index]
    model.subgraphs, signature.subgraphIndex = kept, 0
    needed = {
        member.tensors[index].buffer
        for member in kept
        for index in (*_indices(member.operators, "inputs"), *_indices(member.operators, "outputs"))
        if index >= 0
    }
    for index, buffer in enumerate(model.buffers):
        if index not in needed:
            buffer.data, buffer.offset, buffer.size = None, 0, 0


def _write(model: Any, path: Path) -> None:
    """Pack `model`; its weights behind the flatbuffer become a hole of their size."""
    behind = [buffer for buffer in model.buffers if buffer.offset > 1]
    end = len(pack(model)) + 2 * _ALIGNMENT
    for buffer in behind:
        buffer.offset = end = -(-end // _ALIGNMENT) * _ALIGNMENT
        end += buffer.size
    with path.open("wb") as file:
        file.write(pack(model))
        file.truncate(end)


def main() -> None:
    """The child process."""
    from ai_edge_litert.compiled_model import CompiledModel, HardwareAccelerator, Options

    model = CompiledModel.from_file(sys.argv[1], options=Options(hardware_accelerators=HardwareAccelerator.GPU))
    print(_TAKEN if model.is_fully_accelerated() else _REFUSED, flush=True)


if __name__ == "__main__":
    main()
