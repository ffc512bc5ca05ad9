"""Gemma4RMSNorm as one operator of torch, which the converter is told how to write.

Torch takes every operator through several passes, and a layer has up to eight norms of nine operators each: as one,
they cost next to nothing.
"""

from __future__ import annotations

import uuid
from typing import Any

import torch

from ...runtime.bundle.names import RMS_NORM


def rms_norm(x: torch.Tensor, weight: torch.Tensor | None, eps: float) -> torch.Tensor:
    """Gemma4RMSNorm: `x * (mean(x^2) + eps)^-1/2 * weight` over the last axis.

    A composite, for which LiteRT's GPU backend has a kernel: written out, the square of an `x` of 256 or more overflows
    where it computes in float16.
    """
    return _rms_norm(x, torch.ones(x.shape[-1]) if weight is None else weight, eps)


@torch.library.custom_op("gemma_mtp::rms_norm", mutates_args=())
def _rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


@_rms_norm.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    del weight, eps
    return torch.empty_like(x)


def register_lowering() -> None:
    """Tell litert-torch, which takes seconds to load, how to write a norm; to be called before tracing.

    It is what litert-torch's StableHLOCompositeBuilder and the operators of `_rms_norm` would come to.
    """
    from litert_converter.mlir import ir as mlir
    from litert_converter.mlir.dialects import stablehlo as dialect
    from litert_torch.backend import lowerings

    ir: Any = mlir
    stablehlo: Any = dialect
    register: Any = lowerings.lower

    def norm(x: Any, weight: Any, eps: float) -> Any:
        shape, kind = [int(size) for size in x.type.shape], x.type.element_type
        scalar = ir.RankedTensorType.get([], kind)

        def number(value: float) -> Any:
            return stablehlo.constant(ir.DenseElementsAttr.get_splat(scalar, ir.FloatAttr.get(kind, value)))

        def broadcast(value: Any, to: list[int], axes: list[int]) -> Any:
            return stablehlo.broadcast_in_dim(ir.RankedTensorType.get(to, kind), value, ir.DenseI64ArrayAttr.get(axes))

        last, kept = len(shape) - 1, [*shape[:-1], 1]
        summed = stablehlo.ReduceOp(
            [ir.RankedTensorType.get(shape[:-1], kind)], [stablehlo.multiply(x, x)], [number(0.0)], [last]
        )
        with ir.InsertionPoint(summed.regions[0].blocks.append(scalar, scalar)) as point:
            stablehlo.return_([stablehlo.add(*point.block.arguments)])
        sums = broadcast(summed.results[0], kept, [*range(last)])
        mean = stablehlo.divide(sums, broadcast(number(shape[-1]), kept, []))
        inverse = stablehlo.rsqrt(stablehlo.add(mean, broadcast(number(eps), kept, [])))
        normed = stablehlo.multiply(x, broadcast(inverse, shape, [*range(len(shape))]))
        return stablehlo.multiply(normed, broadcast(weight, shape, [last]))

    def lower(context: Any, x: Any, weight: Any, eps: float) -> Any:
        composite = uuid.uuid4().hex

        def mark(tensor: Any, place: int, *, is_input: bool, attributes: tuple[Any, ...] | None = None) -> Any:
            marked: Any = lowerings.lookup(torch.ops.litert_torch.mark_tensor.default)
            return marked(context, tensor, RMS_NORM, place, composite, is_input, attributes)

        x, weight = mark(x, 0, is_input=True), mark(weight, 1, is_input=True)
        return mark(norm(x, weight, eps), 0, is_input=False, attributes=(("epsilon", eps),))

    register(torch.ops.gemma_mtp.rms_norm)(lower)
