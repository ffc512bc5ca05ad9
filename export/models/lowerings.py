"""Operators that torch has no converter for, and how litert-torch writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


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


def register_lowering() -> None:
    """Tell litert-torch, which takes seconds to load, how to write these operators; to be called before tracing."""
    from litert_converter.mlir import ir as mlir
    from litert_converter.mlir.dialects import stablehlo
    from litert_torch.backend import lowerings

    ir: Any = mlir

    def lower(_: Any, x: Any, starts: Any, sizes: Sequence[int]) -> Any:
        return stablehlo.dynamic_slice(x, starts, ir.DenseI64ArrayAttr.get(list(sizes)))

    def lower_quotient(_: Any, x: Any, divisor: int) -> Any:
        kind = x.type
        value = ir.DenseElementsAttr.get_splat(kind, ir.IntegerAttr.get(kind.element_type, divisor))
        return stablehlo.divide(x, stablehlo.constant(value))

    register: Any = lowerings.lower
    register(torch.ops.gemma_mtp.dynamic_slice)(lower)
    register(torch.ops.gemma_mtp.integer_quotient)(lower_quotient)
