"""Torch's operators as one or two of StableHLO's or LiteRT's own, where the converter asks JAX how they are written.

JAX takes five milliseconds each time, half of all that tracing takes. What is written is the same (tests/joining).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch


@contextlib.contextmanager
def direct_lowerings() -> Iterator[set[Any]]:
    """The converter writes these operators directly while the block runs; gives which they are."""
    from litert_torch.backend.lowerings import registry

    registered: Any = registry.global_registry.registered_ops
    direct = _lowerings(dict(registered))
    replaced = {operator: registered[operator] for operator in direct if operator in registered}
    registered.update(direct)
    try:
        yield set(direct)
    finally:
        for operator in direct:
            del registered[operator]
        registered.update(replaced)


def _lowerings(by_jax: dict[Any, Callable[..., Any]]) -> dict[Any, Callable[..., Any]]:
    """By operator; each takes the converter's context, in which `node` is the operator, and its operands.

    `by_jax` has what the converter would write, for operands of different types.
    """
    from litert_converter.mlir import ir as mlir
    from litert_converter.mlir.dialects import stablehlo as dialect
    from litert_torch.backend.export_utils import torch_dtype_to_ir_element_type

    kind_of: Any = torch_dtype_to_ir_element_type
    ir: Any = mlir
    stablehlo: Any = dialect

    def shape_of(x: Any) -> list[int]:
        return [int(size) for size in x.type.shape]

    def made(context: Any) -> list[int]:
        """The shape of what the operator makes."""
        return [int(size) for size in context.node.meta["val"].shape]

    def reshaped(x: Any, shape: list[int]) -> Any:
        return stablehlo.reshape(ir.RankedTensorType.get(shape, x.type.element_type), x)

    def broadcast(x: Any, shape: list[int]) -> Any:
        own = shape_of(x)
        if own == shape:
            return x
        axes = ir.DenseI64ArrayAttr.get([*range(len(shape) - len(own), len(shape))])
        return stablehlo.broadcast_in_dim(ir.RankedTensorType.get(shape, x.type.element_type), x, axes)

    def number(value: float, kind: Any) -> Any:
        """A constant `[]`."""
        is_integer = isinstance(kind, ir.IntegerType)
        attribute = ir.IntegerAttr.get(kind, int(value)) if is_integer else ir.FloatAttr.get(kind, float(value))
        return stablehlo.constant(ir.DenseElementsAttr.get_splat(ir.RankedTensorType.get([], kind), attribute))

    def full(context: Any, _: Any, value: float, **unused: Any) -> Any:
        del unused
        return broadcast(scalar_tensor(context, value), made(context))

    def scalar_tensor(context: Any, value: float, **unused: Any) -> Any:
        del unused
        return number(value, kind_of(context.node.meta["val"].dtype))

    def expand(context: Any, x: Any, *unused: Any, **options: Any) -> Any:
        del unused, options
        return broadcast(x, made(context))

    def clone(_: Any, x: Any, **unused: Any) -> Any:
        del unused
        return x

    def reshape(context: Any, x: Any, *unused: Any) -> Any:
        del unused  # Sizes and axes, which the result's shape says, too.
        return reshaped(x, made(context))

    def permute(_: Any, x: Any, axes: list[int]) -> Any:
        return stablehlo.transpose(x, ir.DenseI64ArrayAttr.get([axis % len(axes) for axis in axes]))

    def slices(_: Any, x: Any, axis: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Any:
        shape = shape_of(x)
        bounds = [slice(0, size, 1) for size in shape]
        bounds[axis] = slice(*slice(start, end, step).indices(shape[axis]))
        starts, ends, steps = zip(*((bound.start, bound.stop, bound.step) for bound in bounds), strict=True)
        return stablehlo.slice(x, *(ir.DenseI64ArrayAttr.get(list(part)) for part in (starts, ends, steps)))

    def select(context: Any, x: Any, axis: int, index: int) -> Any:
        place = index % shape_of(x)[axis]
        return reshaped(slices(context, x, axis, place, place + 1), made(context))

    def elementwise(operator: Any, write: Callable[[Any, Any], Any]) -> Callable[..., Any]:
        def lower(context: Any, x: Any, y: Any, **options: Any) -> Any:
            if options or x.type.element_type != y.type.element_type:
                return by_jax[operator](context, x, y, **options)
            return write(*(broadcast(operand, made(context)) for operand in (x, y)))

        return lower

    def where(context: Any, condition: Any, x: Any, y: Any) -> Any:
        if x.type.element_type != y.type.element_type:
            return by_jax[aten.where.self](context, condition, x, y)
        return stablehlo.select(*(broadcast(operand, made(context)) for operand in (condition, x, y)))

    def clamp(context: Any, x: Any, least: float | None = None, most: float | None = None) -> Any:
        for bound, write in ((least, stablehlo.maximum), (most, stablehlo.minimum)):
            if bound is not None:
                x = write(broadcast(number(bound, x.type.element_type), made(context)), x)
        return x

    def gelu(_: Any, x: Any, approximate: str = "none") -> Any:
        options = {"approximate": ir.BoolAttr.get(approximate == "tanh")}
        return ir.Operation.create("tfl.gelu", [x.type], [x], options).results[0]

    def embedding(context: Any, table: Any, places: Any, *unused: Any) -> Any:
        del unused  # Of training.
        count = math.prod(shape_of(places))
        looked_up = ir.RankedTensorType.get([count, shape_of(table)[1]], table.type.element_type)
        operands = [reshaped(places, [count]), table]
        rows = ir.Operation.create("tfl.embedding_lookup", [looked_up], operands).results[0]
        # What follows stays behind the reshape, as behind the converter's own lookup.
        return stablehlo.optimization_barrier([reshaped(rows, made(context))])

    aten = torch.ops.aten
    pairs: Sequence[tuple[Any, Callable[[Any, Any], Any]]] = (
        (aten.add.Tensor, stablehlo.add),
        (aten.mul.Tensor, stablehlo.multiply),
        (aten.sub.Tensor, stablehlo.subtract),
    )
    return {
        aten.full.default: full,
        aten.full_like.default: full,
        aten.scalar_tensor.default: scalar_tensor,
        aten.expand.default: expand,
        aten.clone.default: clone,
        aten.view.default: reshape,
        aten.squeeze.dims: reshape,
        aten.unsqueeze.default: reshape,
        aten.permute.default: permute,
        aten.slice.Tensor: slices,
        aten.select.int: select,
        **{operator: elementwise(operator, write) for operator, write in pairs},
        aten.where.self: where,
        aten.clamp.default: clamp,
        aten.gelu.default: gelu,
        aten.embedding.default: embedding,
    }
