"""A stored constant against the values that it stands for, row by row, within the bound of its format.

| format | bound |
|---|---|
| float32 | equal bit for bit |
| float16, bfloat16 | the nearest such number, bit for bit |
| int8, int4, int2 with scales | half a step; clipped only where that pays; no coarser than it has to be |
| codes that the checkpoint holds itself, in as many bits or more | codes and scales equal bit for bit |
| int32 | equal |

Memory is that of a few blocks of rows, whatever the size of the constant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from ...bundle.constants import Constant, Quantization
from .codes import Codes
from .parameters import Parameter

# Float32 bytes of the rows that are compared at a time.
BLOCK_BYTES = 64 << 20
BITS = {"int8": 8, "int4": 4, "int2": 2}
_FLOATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# Of a step: quotient and product are rounded to float32 when a weight is quantized and here.
_SLACK = 1e-3
# Rows with nothing larger keep a scale of this over the largest code (ai-edge-quantizer, tensor_zp_scale_from_min_max).
_LEAST_RANGE = 1e-9
# Values that lie on a lattice already, so that no other scale could come closer: in steps, and of a value that was
# rounded to bfloat16 since.
_EXACT, _BFLOAT16 = 1e-3, 2.0**-8
# ai-edge-quantizer, mse._MSE_QUANT_MULS.
_OF_ROOT_MEAN_SQUARE = {8: 0.05408, 4: 0.37755}


@dataclass(frozen=True)
class Difference:
    """Where a constant is not the parameter: the worst place and how bad it is there, relative to the row's largest
    value, and how many rows are wrong."""

    text: str
    severity: float
    rows: int = 0


@dataclass(frozen=True)
class Compared:
    """A constant beside its parameter; `steps` is the largest rounding error in steps, 0 for plain values."""

    difference: Difference | None
    steps: float = 0.0


@dataclass
class _Worst:
    """What was found up to now."""

    rows: int = 0
    severity: float = -1.0
    text: str = ""

    def see(self, severities: torch.Tensor, wrong: torch.Tensor) -> int | None:
        """Index of the block's worst row, if it is worse than all before.

        Args:
            severities: float `[rows]`.
            wrong: bool `[rows]`.
        """
        self.rows += int(wrong.sum())
        ranked = torch.where(wrong, severities.nan_to_num(nan=math.inf, posinf=math.inf), -1.0)
        worst = int(ranked.argmax())
        if ranked[worst] <= self.severity:
            return None
        self.severity = float(ranked[worst])
        return worst


def compare(constant: Constant, parameter: Parameter, block_bytes: int = BLOCK_BYTES) -> Compared:
    """Compare all of `constant` with `parameter`."""
    if problem := _form_problem(constant, parameter):
        return Compared(Difference(problem, math.inf))
    rows = parameter.shape[0] or constant.shape[0]
    columns = constant.elements // rows
    worst, steps = _Worst(), 0.0
    step = max(1, block_bytes // (4 * columns))
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        expected = parameter.read(start, stop).reshape(stop - start, columns)
        block = _block(constant, start, stop, columns)
        if constant.quantization is None:
            _compare_plain(worst, parameter, block, expected, start)
        else:
            scales = _scales(constant.quantization, start, stop)
            if parameter.codes and not constant.quantization.block:
                trained = parameter.codes(start, stop)
                if trained.bits <= BITS[constant.dtype]:
                    _compare_trained(worst, parameter, block, scales, trained, start)
                    continue
            steps = max(steps, _compare_codes(worst, parameter, constant.dtype, block, scales, expected, start))
    if not worst.rows:
        return Compared(None, steps)
    more = f" ({worst.rows:,} of {rows:,} rows differ)" if worst.rows > 1 else ""
    return Compared(Difference(worst.text + more, worst.severity, worst.rows), steps)


def _form_problem(constant: Constant, parameter: Parameter) -> str | None:
    """Why the constant cannot be compared, if so."""
    dtype, shape, quantization = constant.dtype, constant.shape, constant.quantization
    if not _fits(shape, parameter.shape):
        wanted = [("any" if size is None else size) for size in parameter.shape]
        return f"has shape {list(shape)}, expected {wanted}".replace("'", "")
    integer = not parameter.read(0, 1).is_floating_point()
    if integer or quantization is None:
        if (dtype != "int32") if integer else (dtype not in _FLOATS):
            return f"is stored as {dtype}{'' if quantization else ' without scales'}, which is not compared"
        return _size_problem(constant, 8 * (4 if integer else _FLOATS[dtype].itemsize))
    if dtype not in BITS:
        return f"is stored as {dtype} with scales, a format that is not compared"
    if quantization.zero_points.any():
        return "has zero points, expected 0"
    if quantization.dimension or (parameter.shape[0] or shape[0]) != shape[0]:
        return f"has its scales along axis {quantization.dimension} of {list(shape)}, expected one for each row"
    columns = constant.elements // shape[0]
    if columns * BITS[dtype] % 8 or (quantization.block and columns % quantization.block):
        return f"has rows of {columns} values in {dtype}, which do not fill whole bytes or blocks"
    groups = columns // quantization.block if quantization.block else 1
    if quantization.scales.size not in (shape[0] * groups, 1):
        return f"has {quantization.scales.size} scales, expected {shape[0] * groups}"
    return _size_problem(constant, BITS[dtype])


def _size_problem(constant: Constant, bits: int) -> str | None:
    wanted = -(-constant.elements * bits // 8)
    found = len(constant.content)
    return None if found == wanted else f"has {found:,} bytes, expected {wanted:,}"


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    if not shape or not math.prod(shape):
        return False
    if len(shape) == len(wanted):
        return all(size in (found, None) for found, size in zip(shape, wanted, strict=True))
    return tuple(size for size in shape if size != 1) == tuple(size for size in wanted if size != 1)


def dequantized(constant: Constant, start: int, stop: int) -> torch.Tensor:
    """Float32 rows `[rows, columns]` that the codes of a quantized constant stand for."""
    columns = constant.elements // constant.shape[0]
    assert constant.quantization is not None
    codes, scales = _block(constant, start, stop, columns), _scales(constant.quantization, start, stop)
    values = codes.float().reshape(stop - start, scales.shape[1], -1) * scales.unsqueeze(-1)
    return values.reshape(stop - start, *constant.shape[1:])


def _block(constant: Constant, start: int, stop: int, columns: int) -> torch.Tensor:
    """Rows of stored numbers `[rows, columns]`: codes as int8, plain values in their own type."""
    bits = BITS.get(constant.dtype) or 8 * (_FLOATS.get(constant.dtype) or torch.int32).itemsize
    begin, end = start * columns * bits // 8, stop * columns * bits // 8
    raw = torch.from_numpy(np.array(np.frombuffer(constant.content[begin:end], np.uint8)))  # A copy, to be writable.
    if bits < 8:
        return _unpacked(raw, bits).reshape(-1, columns)
    dtype = _FLOATS.get(constant.dtype) or (torch.int8 if bits == 8 else torch.int32)
    return raw.view(dtype).reshape(-1, columns)


def _unpacked(raw: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes of `bits` bits, the lowest first, in two's complement."""
    parts = [(raw >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)]
    codes = torch.stack(parts, dim=-1).reshape(-1).to(torch.int8)
    return torch.where(codes >= 1 << (bits - 1), codes - (1 << bits), codes)


def _scales(quantization: Quantization, start: int, stop: int) -> torch.Tensor:
    """Float32 `[rows, groups]`, or `[1, 1]` where one scale is for all."""
    scales = quantization.scales
    if scales.size == 1:
        return torch.from_numpy(np.array(scales, np.float32)).reshape(1, 1)
    return torch.from_numpy(np.array(scales[start:stop], np.float32)).reshape(stop - start, -1)


def _compare_plain(
    worst: _Worst, parameter: Parameter, found: torch.Tensor, expected: torch.Tensor, start: int
) -> None:
    expected = expected.to(found.dtype)
    if parameter.bound is None or not found.is_floating_point():
        views = {2: torch.int16, 4: torch.int32}
        view = views[found.dtype.itemsize]
        wrong = found.contiguous().view(view) != expected.contiguous().view(view)
    else:
        room = parameter.bound(expected.float(), start) + (_half_ulp(expected) if found.dtype.itemsize == 2 else 0)
        wrong = ~((found.float() - expected.float()).abs() <= room)
    rows = wrong.any(dim=1)
    if not bool(rows.any()):
        return
    error = (found.double() - expected.double()).abs()
    largest = expected.double().abs().amax(dim=1).clamp_min(1e-30)
    row = worst.see(error.amax(dim=1) / largest if found.is_floating_point() else torch.ones(len(found)), rows)
    if row is not None:
        column = int(torch.where(wrong[row], error[row].nan_to_num(nan=math.inf), -1.0).argmax())
        worst.text = _text(parameter, start + row, column, found[row], expected[row, column], found.shape[1])


def _half_ulp(expected: torch.Tensor) -> torch.Tensor:
    return expected.float().abs() * torch.finfo(expected.dtype).eps


def _compare_codes(
    worst: _Worst,
    parameter: Parameter,
    dtype: str,
    codes: torch.Tensor,
    scales: torch.Tensor,
    expected: torch.Tensor,
    start: int,
) -> float:
    """See half a step's bound and the use of the codes' range; the largest error in steps."""
    rows, columns = codes.shape
    groups = scales.shape[1]
    grid = scales.unsqueeze(-1)  # [rows or 1, groups, 1]
    values = codes.float().reshape(rows, groups, -1) * grid
    truth = expected.reshape(rows, groups, -1)
    error = (values - truth).abs()
    largest = truth.abs().amax(dim=-1)  # [rows, groups]
    errors = error.amax(dim=-1)
    most = (1 << (BITS[dtype] - 1)) - 1
    # What lies beyond the last code is clipped to it. That pays where the whole row comes closer than half a step of
    # the scale that would clip nothing.
    coded = codes.reshape(rows, groups, -1)
    clipped = ((coded == most) & (truth > values)) | ((coded == -most - 1) & (truth < values))
    within = (error <= grid * (0.5 + _SLACK)) | clipped
    pays = (error.square().mean(dim=-1).sqrt() <= largest / most * (0.5 + _SLACK)) | (errors <= scales * (0.5 + _SLACK))
    wrong = ~(within.all(dim=-1) & pays & torch.isfinite(scales))
    inside = torch.where(clipped, 0, error).amax(dim=-1) / scales.clamp_min(_LEAST_RANGE / 127)
    steps = float(inside[~wrong].max()) if bool((~wrong).any()) else 0.0
    on_lattice = (error <= _EXACT * grid + _BFLOAT16 * truth.abs()).all(dim=-1)
    if len(scales) > 1 or rows == 1:  # One scale for all rows is fitted to the largest of them.
        used = coded.abs().amax(dim=-1)
        coarse = (used < most) & (coded != -most - 1).all(dim=-1) & (largest > _LEAST_RANGE)
        coarse &= ~_of_mean_square(scales, truth, BITS[dtype]) & ~on_lattice
    else:
        used, coarse = torch.zeros_like(wrong), torch.zeros_like(wrong)
    bad = (wrong | coarse).any(dim=1)
    if not bool(bad.any()):
        return steps
    severity = (errors / largest.clamp_min(1e-30)).amax(dim=1)
    row = worst.see(severity, bad)
    if row is None:
        return steps
    if bool(wrong[row].any()):
        flat = error[row].reshape(-1)
        column = int(flat.nan_to_num(nan=math.inf).argmax())
        worst.text = _text(
            parameter, start + row, column, values.reshape(rows, columns)[row], expected[row, column], columns
        )
        worst.text += f" within {float(scales.expand(rows, groups)[row].max()) / 2:.2g}"
    else:
        reached = int(used[row][coarse[row]].min())
        worst.text = (
            f"{parameter.row(start + row)}: codes reach {reached}, expected {most}: coarser than {dtype} has to be"
        )
    return steps


def _of_mean_square(scales: torch.Tensor, truth: torch.Tensor, bits: int) -> torch.Tensor:
    """Whether scales are those that ai-edge-quantizer's MSE takes, which leave codes unused where a row has no far
    values; `[rows, groups]`."""
    if bits not in _OF_ROOT_MEAN_SQUARE:
        return torch.zeros_like(scales, dtype=torch.bool)
    wanted = _OF_ROOT_MEAN_SQUARE[bits] * truth.square().mean(dim=-1).sqrt()
    return (scales / wanted - 1).abs() < 1e-4


def _compare_trained(
    worst: _Worst, parameter: Parameter, codes: torch.Tensor, scales: torch.Tensor, trained: Codes, start: int
) -> None:
    """See that codes and scales are the checkpoint's own, not another rounding of the values."""
    wanted, steps = torch.from_numpy(trained.unpacked()), torch.from_numpy(trained.scales)
    found = scales.expand(len(codes), 1)[:, 0]
    other_code, other_scale = codes != wanted, found != steps
    rows = other_code.any(dim=1) | other_scale
    if not bool(rows.any()):
        return
    error = (codes.float() * found[:, None] - wanted.float() * steps[:, None]).abs()
    largest = (wanted.float().abs().amax(dim=1) * steps).clamp_min(1e-30)
    row = worst.see(error.amax(dim=1) / largest, rows)
    if row is None:
        return
    if bool(other_code[row].any()):
        column = int(torch.where(other_code[row], error[row].nan_to_num(nan=math.inf), -1.0).argmax())
        worst.text = (
            f"{parameter.row(start + row)}, column {column}: code {int(codes[row, column])}, expected"
            f" {int(wanted[row, column])}, as trained"
        )
    else:
        worst.text = (
            f"{parameter.row(start + row)}: scale {float(found[row]):.6g}, expected {float(steps[row]):.6g}, as trained"
        )


def _text(
    parameter: Parameter, row: int, column: int, found: torch.Tensor, expected: torch.Tensor, columns: int
) -> str:
    at = f", column {column}" if columns > 1 else ""
    zero = " (all of the row is 0)" if columns > 1 and not bool(found.any()) else ""
    return f"{parameter.row(row)}{at}: {found[column].item():.6g}{zero}, expected {expected.item():.6g}"
