"""litert-torch, called by the parts of it that a kit needs.

Its public `convert` takes every graph through a decomposition that the lowering repeats, and asks JAX, five
milliseconds each time, how a view, a permutation or a slice is written. What comes out is the same, byte for byte
(tests/joining), in two thirds of the time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import torch

from ...models import lowerings, norm


def register_lowerings() -> None:
    """Tell the converter how to write this project's own operators; to be called before tracing."""
    norm.register_lowering()
    lowerings.register_lowerings()


def to_flatbuffer(name: str, module: torch.nn.Module, samples: dict[str, dict[str, torch.Tensor]]) -> bytes:
    """What the converter makes of `module`, run on `samples`; the entries of an argument `a` become inputs `a_*`."""
    # Seconds of import time, paid by the worker alone.
    from litert_torch._convert import core, litert_converter
    from litert_torch._convert.signature import Signature

    steps, entry = cast("Any", core), cast("Any", Signature)(name, module.eval(), (), samples)
    program = steps._run_convert_passes(steps.export_torch_signature(entry, run_decompositions=False))
    with _direct_lowerings():
        return litert_converter.exported_programs_to_flatbuffer([program], [entry]).to_bytes()


@contextlib.contextmanager
def _direct_lowerings() -> Iterator[None]:
    """Operators that are one of StableHLO's each are written as that one while the block runs."""
    from litert_converter.mlir import ir as mlir
    from litert_converter.mlir.dialects import stablehlo
    from litert_torch.backend.lowerings import registry

    ir: Any = mlir

    def view(context: Any, x: Any, size: list[int]) -> Any:
        del size  # May have a -1.
        shape = list(context.node.meta["tensor_meta"].shape)
        return stablehlo.reshape(ir.RankedTensorType.get(shape, x.type.element_type), x)

    def permute(_: Any, x: Any, axes: list[int]) -> Any:
        return stablehlo.transpose(x, ir.DenseI64ArrayAttr.get([axis % len(axes) for axis in axes]))

    def slices(_: Any, x: Any, axis: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Any:
        shape = [int(size) for size in x.type.shape]
        bounds = [slice(0, size, 1) for size in shape]
        bounds[axis] = slice(*slice(start, end, step).indices(shape[axis]))
        starts, ends, steps = zip(*((bound.start, bound.stop, bound.step) for bound in bounds), strict=True)
        return stablehlo.slice(x, *(ir.DenseI64ArrayAttr.get(list(part)) for part in (starts, ends, steps)))

    aten = torch.ops.aten
    direct = {aten.view.default: view, aten.permute.default: permute, aten.slice.Tensor: slices}
    registered: Any = registry.global_registry.registered_ops
    replaced = {operator: registered[operator] for operator in direct}
    registered.update(direct)
    try:
        yield
    finally:
        registered.update(replaced)
