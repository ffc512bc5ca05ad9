"""litert-torch, called by the parts of it that a kit needs.

Its public `convert` takes every graph through torch.export and two decompositions, which make the same of it three
times, and asks JAX how each operator is written. What comes out here says the same, operator by operator
(tests/joining), in a quarter of the time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import torch

from ...models import lowerings, norm
from .capture import capture
from .direct import direct_lowerings


def register_lowerings() -> None:
    """Tell the converter how to write this project's own operators; to be called before tracing."""
    norm.register_lowering()
    lowerings.register_lowerings()


def to_flatbuffer(name: str, module: torch.nn.Module, samples: dict[str, dict[str, torch.Tensor]]) -> bytes:
    """What the converter makes of `module`, run on `samples`; the entries of an argument `a` become inputs `a_*`."""
    # Seconds of import time, paid by the worker alone.
    from litert_torch import fx_infra
    from litert_torch._convert import litert_converter
    from litert_torch._convert.signature import Signature

    with direct_lowerings() as direct, _decomposed():
        decompositions = fx_infra.decomp.pre_lower_decomp()
        kept = {operator: to for operator, to in decompositions.items() if operator not in direct}
        program = capture(module.eval(), samples, kept)
        entry = cast("Any", Signature)(name, module, (), samples)
        return litert_converter.exported_programs_to_flatbuffer([program], [entry]).to_bytes()


@contextlib.contextmanager
def _decomposed() -> Iterator[None]:
    """Graphs are taken for decomposed while the block runs; the lowering would decompose them again."""
    from litert_torch import fx_infra

    infra: Any = fx_infra
    replaced = infra.safe_run_decompositions
    infra.safe_run_decompositions = lambda program, *table, **options: program
    try:
        yield
    finally:
        infra.safe_run_decompositions = replaced
