"""Compiled models and their signatures on LiteRT, with tensor buffers that live as long as the model.

Python moves the small tensors of a step (embeddings, positions, mask, logits); caches stay in LiteRT's buffers, which
are handed from signature to signature and never read or written here.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from ai_edge_litert.compiled_model import CompiledModel, CpuOptions, Environment, Options
from ai_edge_litert.tensor_buffer import TensorBuffer

from ..bundle.loading import ModelSource
from ..bundle.model_file import SignatureInfo
from ..bundle.names import is_cache
from ..errors import UserError
from ..native_output import quiet_litert

Caches = dict[str, TensorBuffer]
# XNNPACK's name (kInMemoryCachePath) for a weight cache in memory, which all signatures of a model share. Without one
# each signature packs its own copy: an int8 model of E2B's size took 7.8 GB instead of 2.8, and 28 s to load, not 5.
_SHARED_PACKED_WEIGHTS = ":memory"


@functools.cache
def shared_environment() -> Environment:
    """LiteRT's environment, one for the process: it looks for accelerators, and reports its end when it is released."""
    return Environment.create()


def compile_model(source: ModelSource, threads: int) -> CompiledModel:
    """Compile for the CPU on `threads` threads.

    Raises:
        UserError: LiteRT refuses the model.
    """
    cpu = CpuOptions(num_threads=threads, xnnpack_weight_cache_path=_SHARED_PACKED_WEIGHTS)
    options = Options(cpu_options=cpu)
    environment = shared_environment()
    with quiet_litert() as output:
        try:
            return CompiledModel.from_buffer(source.content(), environment=environment, options=options)
        except RuntimeError as error:
            reason = "; ".join(filter(None, (str(error).splitlines()[0], output.reason())))
            raise UserError(f"{source.where}: LiteRT cannot load the model ({reason}); export it again") from error


class Graph:
    """One signature with buffers of its own for every tensor that is no cache. `runs` counts its runs."""

    def __init__(self, model: CompiledModel, info: SignatureInfo) -> None:
        self.info = info
        self.runs = 0
        self._model = model
        self._index = model.get_signature_index(info.name)
        # LiteRT's own order, which need not be the flatbuffer's.
        self._order: dict[str, list[str]] = model.get_signature_by_index(self._index)
        self._inputs = {t.name: model.create_input_buffer_by_name(info.name, t.name) for t in info.inputs if _small(t)}
        self._outputs = {
            t.name: model.create_output_buffer_by_name(info.name, t.name) for t in info.outputs if _small(t)
        }
        self._shapes = {t.name: (t.shape, np.dtype(t.dtype)) for t in info.outputs if _small(t)}

    def create_caches(self) -> Caches:
        """New buffers, zeroed, for every cache that the signature takes.

        Zeroed, because a masked slot still takes part in a product with probability 0, and 0 times NaN is NaN.
        """
        caches: Caches = {}
        for name, (shape, dtype) in self.info.caches(written=False).items():
            caches[name] = self._model.create_input_buffer_by_name(self.info.name, name)
            caches[name].write(np.zeros(shape, np.dtype(dtype)))
        return caches

    def run(self, inputs: Mapping[str, np.ndarray], read: Caches, written: Caches) -> None:
        """Run on `inputs` and the caches `read`; new cache rows go to `written`, which may be the same buffers."""
        self.runs += 1
        for name, array in inputs.items():
            self._inputs[name].write(array)
        self._model.run_by_index(
            self._index,
            [self._inputs.get(name) or read[name] for name in self._order["inputs"]],
            [self._outputs.get(name) or written[name] for name in self._order["outputs"]],
        )

    def has_output(self, name: str) -> bool:
        return name in self._outputs

    def output(self, name: str) -> np.ndarray:
        """A copy of the output `name` of the last run."""
        shape, dtype = self._shapes[name]
        return self._outputs[name].read(int(np.prod(shape)), dtype).reshape(shape)


def _small(tensor: Any) -> bool:
    return not is_cache(tensor.name)
