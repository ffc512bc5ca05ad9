"""litert-torch, called by the parts of it that a kit needs.

Its public `convert` takes every graph through a decomposition that the lowering repeats, and asks JAX, five
milliseconds each time, how a view, a permutation or a slice is written. What comes out is the same, byte for byte
(tests/joining), in two thirds of the time.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, cast

import torch

from ...models import lowerings, norm
from .capture import capture


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

    with _direct_lowerings() as direct, _decomposed():
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


@contextlib.contextmanager
def _direct_lowerings() -> Iterator[set[Any]]:
    """Operators that are one of StableHLO's or LiteRT's each are written as that one while the block runs."""
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

    def gelu(_: Any, x: Any, approximate: str = "none") -> Any:
        options = {"approximate": ir.BoolAttr.get(approximate == "tanh")}
        return ir.Operation.create("tfl.gelu", [x.type], [x], options).results[0]

    def embedding(context: Any, table: Any, places: Any, *unused: Any) -> Any:
        del unused  # Of training.
        shape = [int(size) for size in places.type.shape]
        count, width = math.prod(shape), int(table.type.shape[1])
        kind = table.type.element_type
        row = stablehlo.reshape(ir.RankedTensorType.get([count], places.type.element_type), places)
        looked_up = ir.RankedTensorType.get([count, width], kind)
        rows = ir.Operation.create("tfl.embedding_lookup", [looked_up], [row, table]).results[0]
        # What follows stays behind the reshape, as behind the converter's own lookup.
        return stablehlo.optimization_barrier([stablehlo.reshape(ir.RankedTensorType.get([*shape, width], kind), rows)])

    aten = torch.ops.aten
    direct = {
        aten.view.default: view,
        aten.permute.default: permute,
        aten.slice.Tensor: slices,
        aten.gelu.default: gelu,
        aten.embedding.default: embedding,
    }
    registered: Any = registry.global_registry.registered_ops
    replaced = {operator: registered[operator] for operator in direct if operator in registered}
    registered.update(direct)
    try:
        yield set(direct)
    finally:
        for operator in direct:
            del registered[operator]
        registered.update(replaced)
