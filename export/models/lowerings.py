"""Operators of this project's own, and how litert-torch writes them.

Some are what torch has no converter for; `linear` and `row_products` are one operator where torch's own become many on
their way through the converter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F


@torch.library.custom_op("gemma_mtp::dynamic_slice", mutates_args=())
def dynamic_slice(x: torch.Tensor, starts: Sequence[torch.Tensor], sizes: Sequence[int]) -> torch.Tensor:
    """The part of `x` that begins at `starts` (integers `[]`, one per axis) and has the shape `sizes`."""
    for axis, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        x = x.narrow(axis, int(start), size)
    return x.clone()


@dynamic_slice.register_fake
def _(x: torch.Tensor, starts: Sequence[torch.Tensor], sizes: Sequence[int]) -> torch.Tensor:
    return x.new_empty(list(sizes))


@torch.library.custom_op("gemma_mtp::integer_quotient", mutates_args=())
def integer_quotient(x: torch.Tensor, divisor: int) -> torch.Tensor:
    """`x // divisor` of an int32 `x` that is not negative: one DIV, where torch's own becomes eight operators."""
    return x // divisor


@integer_quotient.register_fake
def _(x: torch.Tensor, divisor: int) -> torch.Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("gemma_mtp::rows", mutates_args=())
def rows(table: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Rows of `table` (int32 `[n, m]`) at `places` (int32 `[k]`); the converter refuses torch's own lookup in it."""
    return table[places.long()]


@rows.register_fake
def _(table: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    return table.new_empty((places.shape[0], table.shape[1]))


@torch.library.custom_op("gemma_mtp::scatter", mutates_args=())
def scatter(places: torch.Tensor, values: torch.Tensor, size: int) -> torch.Tensor:
    """`[size]`: `values` `[n]` at `places` (int32 `[n]`, all different), else 0. No GPU of LiteRT's takes it."""
    return torch.zeros(size, dtype=values.dtype).index_put((places.long(),), values)


@scatter.register_fake
def _(places: torch.Tensor, values: torch.Tensor, size: int) -> torch.Tensor:
    return values.new_empty(size)


@torch.library.custom_op("gemma_mtp::linear", mutates_args=())
def linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`x @ weight.T` of `x` `[..., n]` and `weight` `[m, n]`."""
    return F.linear(x, weight)


@linear.register_fake
def _(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


@torch.library.custom_op("gemma_mtp::row_products", mutates_args=())
def row_products(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """`[a, b, c, e]`: rows of `x` `[a, b, c, d]` times rows of `y` `[a, b, e, d]`."""
    return torch.matmul(x, y.transpose(2, 3))


@row_products.register_fake
def _(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x.new_empty((*x.shape[:3], y.shape[2]))


def register_lowerings() -> None:
    """Tell litert-torch, which takes seconds to load, how to write these operators; to be called before tracing."""
    from litert_converter.mlir import ir as mlir
    from litert_converter.mlir.dialects import stablehlo as dialect
    from litert_torch.backend import lowerings

    ir: Any = mlir
    stablehlo: Any = dialect

    def lower(_: Any, x: Any, starts: Any, sizes: Sequence[int]) -> Any:
        return stablehlo.dynamic_slice(x, starts, ir.DenseI64ArrayAttr.get(list(sizes)))

    def lower_quotient(_: Any, x: Any, divisor: int) -> Any:
        kind = x.type
        value = ir.DenseElementsAttr.get_splat(kind, ir.IntegerAttr.get(kind.element_type, divisor))
        return stablehlo.divide(x, stablehlo.constant(value))

    def lower_linear(_: Any, x: Any, weight: Any) -> Any:
        def reshaped(x: Any, shape: list[int]) -> Any:
            return x if list(x.type.shape) == shape else stablehlo.reshape(typed(shape), x)

        def typed(shape: list[int]) -> Any:
            return ir.RankedTensorType.get(shape, x.type.element_type)

        *leading, n = map(int, x.type.shape)
        count = math.prod(leading)
        m = int(weight.type.shape[0])
        columns = stablehlo.transpose(weight, ir.DenseI64ArrayAttr.get([1, 0]))
        numbers = stablehlo.DotDimensionNumbers.get([], [], [1], [0])
        product = stablehlo.dot_general(typed([count, m]), reshaped(x, [count, n]), columns, numbers)
        return reshaped(product, [*leading, m])

    def lower_row_products(_: Any, x: Any, y: Any) -> Any:
        numbers = stablehlo.DotDimensionNumbers.get([0, 1], [0, 1], [3], [3])
        shape = [*(int(size) for size in x.type.shape[:3]), int(y.type.shape[2])]
        return stablehlo.dot_general(ir.RankedTensorType.get(shape, x.type.element_type), x, y, numbers)

    def lower_rows(_: Any, table: Any, places: Any) -> Any:
        out = ir.RankedTensorType.get([places.type.shape[0], table.type.shape[1]], table.type.element_type)
        zero = ir.IntegerAttr.get(ir.IntegerType.get_signless(32), 0)
        gather = {"axis": zero, "batch_dims": zero}
        return ir.Operation.create("tfl.gather", [out], [table, places], gather).results[0]

    def lower_scatter(_: Any, places: Any, values: Any, size: int) -> Any:
        kind, number = values.type.element_type, places.type.element_type
        indices = stablehlo.reshape(ir.RankedTensorType.get([*places.type.shape, 1], number), places)
        shape = stablehlo.constant(ir.DenseElementsAttr.get(np.array([size], np.int32)))
        out = ir.RankedTensorType.get([size], kind)
        # As LiteRT's own operator: of StableHLO's, the converter makes one that is many times slower.
        return ir.Operation.create("tfl.scatter_nd", [out], [indices, values, shape]).results[0]

    register: Any = lowerings.lower
    register(torch.ops.gemma_mtp.rows)(lower_rows)
    register(torch.ops.gemma_mtp.scatter)(lower_scatter)
    register(torch.ops.gemma_mtp.linear)(lower_linear)
    register(torch.ops.gemma_mtp.row_products)(lower_row_products)
    register(torch.ops.gemma_mtp.dynamic_slice)(lower)
    register(torch.ops.gemma_mtp.integer_quotient)(lower_quotient)
