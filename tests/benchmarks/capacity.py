"""What a pass costs as caches grow, with the same text in them: `python -m tests.benchmarks.capacity`.

E2B's and its assistant's sizes with their true window of 512, fewer layers, made-up int8 weights; ratios to the
shortest cache, passes in turns in one run. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gemma_mtp.export.checkpoint.config import read_drafter_config, read_target_config
from gemma_mtp.export.checkpoint.values import Part
from gemma_mtp.export.checkpoint.weights import INVERSE_ORDERING, Weight
from gemma_mtp.export.demo import SMALL_PAIR
from gemma_mtp.export.graphs.bind import bind, write_model
from gemma_mtp.export.graphs.blocks import loop_over_blocks
from gemma_mtp.export.graphs.convert import convert
from gemma_mtp.export.graphs.signatures import Signature, drafter_signature, target_signatures
from gemma_mtp.export.graphs.skeleton import merge
from gemma_mtp.export.graphs.skeleton_cache import SkeletonCache
from gemma_mtp.export.graphs.storage import CHOSEN
from gemma_mtp.export.models.kv_cache import kv_signature
from gemma_mtp.quantize.formats import storage
from gemma_mtp.runtime.bundle.loading import ModelSource
from gemma_mtp.runtime.bundle.model_file import read_model_file
from gemma_mtp.runtime.decoding.compiled import Graph, compile_model
from tests.benchmarks.widths import E2B, wide_drafter_json, wide_target_json

WINDOW = 512
DRAFT_TOKENS = 4
Inputs = dict[str, np.ndarray]


def signatures(slots: int, layers: int) -> tuple[list[Signature], Signature]:
    """Decode and verify of the target, and the drafter, on caches of `slots`."""
    widths = replace(E2B, layers=layers, kv_shared_layers=layers // 2)
    small = [json.loads((SMALL_PAIR / name / "config.json").read_text("utf-8")) for name in ("target", "drafter")]
    for config in small:
        config["text_config"]["sliding_window"] = WINDOW
    target = read_target_config(wide_target_json(small[0], widths), "target")
    drafter = read_drafter_config(wide_drafter_json(small[1], widths), "drafter")
    kv = kv_signature(target, drafter, slots)
    return (
        target_signatures(target, kv, prefill_lengths=(), draft_tokens=DRAFT_TOKENS),
        drafter_signature(target, drafter, kv),
    )


def made_up(weight: Weight) -> Iterator[Part]:
    """Rows that repeat, so that gigabytes cost no time to make."""
    rows, row = weight.shape[0], weight.shape[1:]
    if weight.name == INVERSE_ORDERING:
        yield lambda: iter([np.arange(rows, dtype=np.int32)])
        return
    block = np.random.default_rng(0).normal(0, 0.02, (min(rows, 256), *row)).astype(np.float32)
    for first in range(0, rows, len(block)):
        yield lambda first=first: iter([block[: rows - first]])


def write_file(skeleton: Any, weights: dict[str, Weight], path: Path) -> None:
    """A .tflite file of `skeleton` with int8 weights that are made up."""
    stored = {name: storage("int8" if weight.role in CHOSEN else "fp32") for name, weight in weights.items()}
    bound = bind(skeleton, weights, stored)
    with path.open("w+b") as file:

        def put(at: int, content: Any) -> None:
            file.seek(at)
            file.write(content)

        write_model(bound, made_up, put)
        file.truncate(bound.size)


def inputs_of(graph: Graph, slots: int, filled: int, drafter: bool) -> Inputs:
    """Inputs of a pass with `filled` slots in the caches."""
    rng, inputs = np.random.default_rng(1), {}
    tokens = next(tensor.shape[0] for tensor in graph.info.inputs if tensor.name == "input_pos")
    start = filled - 1 if drafter else filled
    positions = np.arange(start, start + tokens)
    for tensor in graph.info.inputs:
        if tensor.name == "input_pos":
            inputs[tensor.name] = positions.astype(np.int32)
        elif tensor.name == "mask":
            visible = np.arange(slots) <= positions[:, None]
            inputs[tensor.name] = np.where(visible, 0, -1e30).astype(np.float32)[None, None]
        elif tensor.name == "param_tensor":
            inputs[tensor.name] = np.array([start, start + tokens, start + tokens, 0, 0, 0, 0], np.int32).reshape(
                1, 1, 1, 7
            )
        elif not tensor.name.startswith("kv_cache"):
            inputs[tensor.name] = rng.normal(0, 1, tensor.shape).astype(np.float32)
    return inputs


def build(slots: int, layers: int, folder: Path, cache: Path | None) -> dict[str, Path]:
    """Models with made-up weights on caches of `slots`; kept in `folder` if they are there already."""
    target, drafter = signatures(slots, layers)
    paths = {"target": folder / f"target-{slots}.tflite", "drafter": folder / f"drafter-{slots}.tflite"}
    if not all(path.exists() for path in paths.values()):
        traced = convert([*target, drafter], cache=SkeletonCache(cache) if cache else None)
        for name, entries in (("target", target), ("drafter", [drafter])):
            weights = {weight.name: weight for entry in entries for weight in entry.weights}
            skeleton = merge([traced[entry.name] for entry in entries])
            loop_over_blocks(skeleton, WINDOW)
            write_file(skeleton, weights, paths[name])
    return paths


def passes(paths: dict[str, Path], slots: int, filled: int, threads: int) -> dict[str, Any]:
    """A function for each kind of pass that runs it once."""
    found: dict[str, Any] = {}
    caches: dict[str, Any] = {}
    for name, path in paths.items():
        info = read_model_file(path)
        model = compile_model(ModelSource(info, path.read_bytes, str(path)), threads)
        for signature in info.signatures:
            graph = Graph(model, signature)
            caches = caches or graph.create_caches()
            inputs = inputs_of(graph, slots, filled, name == "drafter")
            found[signature.name] = partial(graph.run, inputs, caches, caches)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slots", default="528,4112,32784")
    parser.add_argument("--filled", type=int, default=500)
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, help="folder of traced graphs")
    parser.add_argument("--folder", type=Path, help="where models are kept for further runs")
    options = parser.parse_args()
    sizes = [int(slots) for slots in options.slots.split(",")]
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        runs = {
            slots: passes(build(slots, options.layers, folder, options.cache), slots, options.filled, options.threads)
            for slots in sizes
        }
        best: dict[str, dict[int, float]] = {}
        for _ in range(options.repetitions):
            for slots, kinds in runs.items():
                for kind, run in kinds.items():
                    begun = time.perf_counter()
                    run()
                    seconds = time.perf_counter() - begun
                    of_kind = best.setdefault(kind, {})
                    of_kind[slots] = min(of_kind.get(slots, seconds), seconds)
    for kind, times in best.items():
        shortest = times[sizes[0]]
        shown = ", ".join(f"{slots}: {t * 1e3:.2f} ms (x{t / shortest:.2f})" for slots, t in times.items())
        print(f"{kind}: {shown}")
    print(json.dumps({kind: {str(slots): round(t * 1e3, 3) for slots, t in of.items()} for kind, of in best.items()}))


if __name__ == "__main__":
    main()
