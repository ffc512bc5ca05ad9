"""Models of E2B's and its assistant's sizes with made-up int8 weights, and their passes, ready to be timed.

Fewer layers than E2B's 35 keep a model's making short; its true window of 512 decides what sliding layers cost.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gemma_mtp.export.checkpoint.config import DecoderConfig
from gemma_mtp.export.checkpoint.read_config import read_drafter_config, read_target_config
from gemma_mtp.export.checkpoint.weights import Role, Weight
from gemma_mtp.export.demo import SMALL_PAIR
from gemma_mtp.export.graphs.bind import bind, write_model
from gemma_mtp.export.graphs.cache_scales import set_cache_scales
from gemma_mtp.export.graphs.inline import inline_composites
from gemma_mtp.export.graphs.signatures import Signature, drafter_signature, target_signatures
from gemma_mtp.export.graphs.skeleton import merge
from gemma_mtp.export.graphs.slots.blocks import loop_over_blocks
from gemma_mtp.export.graphs.slots.lengths import measure_caches
from gemma_mtp.export.graphs.storage import plan_storage
from gemma_mtp.export.graphs.tracing.convert import convert
from gemma_mtp.export.graphs.tracing.skeleton_cache import SkeletonCache
from gemma_mtp.export.models.kv_cache import CacheFormat, KVSignature, kv_signature
from gemma_mtp.quantize.recipes import read_recipe
from gemma_mtp.runtime.bundle.container import Section
from gemma_mtp.runtime.bundle.context.choice import context_edits, with_context
from gemma_mtp.runtime.bundle.loading import ModelSource
from gemma_mtp.runtime.bundle.model_file import read_model_file
from gemma_mtp.runtime.bundle.names import MTP_DRAFTER, PREFILL_DECODE
from gemma_mtp.runtime.decoding.compiled import Caches, Graph, compile_model
from tests.benchmarks.widths import Widths, wide_drafter_json, wide_target_json

WINDOW = 512
# Any will do: made-up caches are zero.
_CACHE_SCALE = 0.05


@dataclass(frozen=True)
class Shape:
    """What models are made for: `slots` in the caches, their format, the drafts of each verify pass, and whether they
    are for the CPU alone."""

    slots: int
    widths: Widths
    draft_tokens: tuple[int, ...] = (3,)
    kv_cache: CacheFormat = "fp32"
    window: int = WINDOW
    cpu_only: bool = False

    @property
    def name(self) -> str:
        drafts = "-".join(map(str, self.draft_tokens))
        sizes = f"{self.widths.hidden}x{self.widths.layers}-window-{self.window}"
        return f"{sizes}-{self.slots}-slots-{self.kv_cache}-{drafts}{'-cpu' if self.cpu_only else ''}"


@dataclass(frozen=True)
class _Model:
    """What a bundle's model is made of."""

    config: DecoderConfig
    signatures: list[Signature]

    @property
    def weights(self) -> dict[str, Weight]:
        return {weight.name: weight for signature in self.signatures for weight in signature.weights}


def build(shape: Shape, folder: Path, cache: SkeletonCache) -> dict[str, Path]:
    """Both models of a shape by name; taken from `folder` if they are there already."""
    paths = {name: folder / f"{name}-{shape.name}.tflite" for name in (PREFILL_DECODE, MTP_DRAFTER)}
    if not all(path.exists() for path in paths.values()):
        kv, models = _models(shape)
        traced = convert([entry for model in models.values() for entry in model.signatures], cache=cache)
        stored = plan_storage(models, read_recipe("int8"), ("cpu",))
        for name, path in paths.items():
            skeleton = merge([traced[entry.name] for entry in models[name].signatures])
            if shape.kv_cache == "int8":
                set_cache_scales(skeleton, dict.fromkeys(kv.target_shapes(), _CACHE_SCALE))
            if kv.is_placeholder:
                measure_caches(skeleton, kv.length)
            loop_over_blocks(skeleton, shape.window)
            if shape.cpu_only:
                inline_composites(skeleton)
            bound = bind(skeleton, models[name].weights, stored[name])
            unfinished = path.with_suffix(".part")
            with unfinished.open("wb") as file:
                write_model(bound, lambda weight: [partial(_made_up, weight)], partial(_put, file))
            unfinished.rename(path)
    return paths


def _put(file: BinaryIO, at: int, content: Any) -> None:
    file.seek(at)
    file.write(content)


def _models(shape: Shape) -> tuple[KVSignature, dict[str, _Model]]:
    """The target's decode and verify passes, and the drafter."""
    configs = [json.loads((SMALL_PAIR / name / "config.json").read_text("utf-8")) for name in ("target", "drafter")]
    for config in configs:
        config["text_config"]["sliding_window"] = shape.window
    target = read_target_config(wide_target_json(configs[0], shape.widths), "target")
    drafter = read_drafter_config(wide_drafter_json(configs[1], shape.widths), "drafter")
    kv = kv_signature(target, drafter, shape.slots, shape.kv_cache)
    first, *others = shape.draft_tokens
    steps = target_signatures(target, kv, prefill_lengths=(), draft_tokens=first, verify_lengths=others)
    return kv, {
        PREFILL_DECODE: _Model(target, steps),
        MTP_DRAFTER: _Model(drafter, [drafter_signature(target, drafter, kv, scatter=shape.cpu_only)]),
    }


def _made_up(weight: Weight) -> Iterator[np.ndarray]:
    """Rows that repeat, so that gigabytes cost no time to make."""
    rows, row = weight.shape[0], weight.shape[1:]
    if weight.role is Role.INDEX:
        yield np.arange(math.prod(weight.shape), dtype=np.int32).reshape(weight.shape)
        return
    block = np.random.default_rng(0).normal(0, 0.02, (min(rows, 256), *row)).astype(np.float32)
    for first in range(0, rows, len(block)):
        yield block[: rows - first]


class Passes:
    """A pair's models, loaded, and its passes: `decode`, `verify N` of N tokens, `draft step`.

    `context`, in tokens, takes the place of the `placeholder` that the models' caches have for a length.
    """

    def __init__(self, paths: dict[str, Path], threads: int, placeholder: int = 0, context: int = 0) -> None:
        self._graphs: dict[str, Graph] = {}
        for path in paths.values():
            source = _source(path, placeholder, context)
            model = compile_model(source, threads)
            for signature in source.info.signatures:
                graph = Graph(model, signature)
                self._graphs[_pass_name(graph)] = graph
        self._caches = self._graphs["decode"].create_caches()

    def filled(self, count: int) -> dict[str, Callable[[], None]]:
        """A function for each pass that runs it once behind `count` slots in use."""
        return {name: partial(_run, graph, _inputs(graph, count), self._caches) for name, graph in self._graphs.items()}


def _source(path: Path, placeholder: int, context: int) -> ModelSource:
    info, content = read_model_file(path), bytearray(path.read_bytes())
    if context:
        info = with_context(info, placeholder, context)
        for edit in context_edits(memoryview(content), placeholder, context):
            content[edit.at : edit.at + len(edit.content)] = edit.content
    return ModelSource(info, lambda: bytes(content), str(path), Section("TFLiteModel", {}, 0, len(content)))


def _run(graph: Graph, inputs: dict[str, np.ndarray], caches: Caches) -> None:
    graph.run(inputs, caches, caches)


def _pass_name(graph: Graph) -> str:
    if graph.has_output("projected_activations"):
        return "draft step"
    return "decode" if graph.info.name == "decode" else f"verify {_tokens(graph)}"


def _tokens(graph: Graph) -> int:
    return next(tensor.shape[0] for tensor in graph.info.inputs if tensor.name == "input_pos")


def _inputs(graph: Graph, filled: int) -> dict[str, np.ndarray]:
    """Inputs of a pass with `filled` slots in use, as the runtime gives them."""
    rng, inputs = np.random.default_rng(1), {}
    tokens = _tokens(graph)
    start = filled - 1 if _pass_name(graph) == "draft step" else filled
    positions = np.arange(start, start + tokens)
    for tensor in graph.info.inputs:
        if tensor.name == "input_pos":
            inputs[tensor.name] = positions.astype(np.int32)
        elif tensor.name == "mask":
            visible = np.arange(tensor.shape[-1]) <= positions[:, None]
            inputs[tensor.name] = np.where(visible, 0, -1e30).astype(np.float32)[None, None]
        elif tensor.name == "param_tensor":
            values = [start, start + tokens, start + tokens, 0, 0, 0, 0]
            inputs[tensor.name] = np.array(values, np.int32).reshape(tensor.shape)
        elif not tensor.name.startswith("kv_cache"):
            inputs[tensor.name] = rng.normal(0, 1, tensor.shape).astype(np.float32)
    return inputs
