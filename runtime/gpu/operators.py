"""What LiteRT's GPU delegate (ML Drift over WebGPU) is known to take and known to refuse: one table.

A whole graph must be delegated: LiteRT-LM's GPU backend runs nothing of it on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Operand:
    """A tensor as an operator meets it.

    `constant`: its values are in the file; `inside`: in the flatbuffer itself, not behind it. `blockwise`: quantized
    with one scale per block of a row. `made_by` names the operator that computes it, None for constants and for inputs
    of the graph.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    constant: bool
    inside: bool
    blockwise: bool
    made_by: str | None


@dataclass(frozen=True)
class Operator:
    """One operator of a graph; composites and custom operators go by their own name."""

    name: str
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]


@dataclass(frozen=True)
class Row:
    """One line of the table: `operator`, where `applies` says so, is taken (`problem` is None) or refused.

    `operand` is the input that `problem` is about, None if it is the operator itself.
    """

    operator: str
    problem: str | None
    tried_on: str
    applies: Callable[[Operator], bool] = lambda operator: True
    operand: int | None = None


LITERT_LM = "litert-lm 0.18.1"
LITERT = "ai-edge-litert 2.3.0"


def _input_is(place: int, test: Callable[[Operand], bool]) -> Callable[[Operator], bool]:
    return lambda operator: len(operator.inputs) > place and test(operator.inputs[place])


def _has_rows(operand: Operand) -> bool:
    return operand.constant and len(operand.shape) in (2, 3) and operand.shape[0] > 1


# The first row that applies counts.
TABLE = (
    Row(
        "EMBEDDING_LOOKUP",
        "aborts on a float32 table behind the flatbuffer; GATHER does the same",
        LITERT_LM,
        _input_is(1, lambda table: table.dtype == "float32" and table.made_by is None and not table.inside),
        1,
    ),
    Row(
        "EMBEDDING_LOOKUP",
        "is refused with a float16 table that DEQUANTIZE opens; store the table as int8 or int4 per channel",
        LITERT,
        _input_is(1, lambda table: table.dtype == "float16" or table.made_by == "DEQUANTIZE"),
        1,
    ),
    Row(
        "EMBEDDING_LOOKUP",
        "aborts on a computed table; GATHER does the same",
        LITERT_LM,
        _input_is(1, lambda table: table.made_by is not None),
        1,
    ),
    Row(
        "EMBEDDING_LOOKUP",
        "aborts on a table quantized blockwise; quantize it per channel",
        LITERT,
        _input_is(1, lambda table: table.blockwise),
        1,
    ),
    Row(
        "FULLY_CONNECTED",
        "crashes on weights quantized blockwise; quantize them per channel",
        LITERT,
        _input_is(1, lambda weight: weight.blockwise),
        1,
    ),
    Row(
        "RESHAPE",
        "is refused for a constant; store the constant in the shape that is needed",
        LITERT_LM,
        _input_is(0, lambda tensor: tensor.constant),
        0,
    ),
    Row(
        "odml.rms_norm",
        "is refused with a weight that is no constant",
        LITERT,
        _input_is(1, lambda weight: not weight.constant),
        1,
    ),
    *(
        Row(
            name,
            "reads the first row only of a constant that has two or three axes; give it four",
            LITERT,
            _input_is(place, _has_rows),
            place,
        )
        for name in ("ADD", "MINIMUM", "MUL", "SUB")
        for place in (0, 1)
    ),
    Row("GATHER_ND", "is refused; GATHER along one axis is taken", LITERT_LM),
    Row("STABLEHLO_SCATTER", "is refused; a one-hot product spreads rows", LITERT_LM),
    Row("RELU_0_TO_1", "is refused; keep clamp(0, 1) out of the graph", LITERT_LM),
    *(
        Row(name, None, LITERT_LM)
        for name in (
            "ADD", "BATCH_MATMUL", "CONCATENATION", "DIV", "EMBEDDING_LOOKUP", "EQUAL", "FULLY_CONNECTED", "GATHER",
            "GELU", "LESS", "MEAN", "MINIMUM", "MUL", "ONE_HOT", "RESHAPE", "RSQRT", "SELECT_V2", "SLICE", "SOFTMAX",
            "SUB", "SUM", "TANH", "TOPK_V2", "TRANSPOSE", "odml.cache_update", "odml.rms_norm", "odml.runtime_bmm",
        )
    ),
    *(Row(name, None, LITERT) for name in ("CAST", "DEQUANTIZE", "LESS_EQUAL")),
)  # fmt: skip


def find_row(operator: Operator) -> Row | None:
    """The row that says what happens to `operator`; None if it was not tried."""
    return next((row for row in TABLE if row.operator == operator.name and row.applies(operator)), None)
