"""The clustered head's table as the rows that it stands for: it is gathered by whole clusters, and has the rows' scales
in a constant of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...bundle.constants import Constant, ModelConstants, Quantization
from ...bundle.names import HEAD_ROWS, HEAD_SCALES


def with_rows(constants: ModelConstants) -> ModelConstants:
    """`constants` with the table `[clusters, size * H]` and its scales `[clusters, size]` as one constant
    `[clusters * size, H]`; as they are where a model has no such pair."""
    scales = [constant for constant in constants.constants if constant.name == HEAD_SCALES]
    if len(scales) != 1 or scales[0].dtype != "float32" or scales[0].quantization:
        return constants
    merged = [
        _merged(constant, scales[0]) if constant.name == HEAD_ROWS else constant
        for constant in constants.constants
        if constant is not scales[0]
    ]
    return replace(constants, constants=tuple(merged))


def _merged(rows: Constant, scales: Constant) -> Constant:
    own = np.frombuffer(scales.content, np.float32)
    if not own.size or rows.elements % own.size:
        return rows
    stored = rows.quantization
    if stored is None and bool((own == 1).all()):
        quantization = None
    else:
        same = stored is not None and bool((stored.scales == stored.scales[:1]).all())
        common = stored.scales[:1].astype(np.float32) if stored and same else np.ones(1, np.float32)
        zero_points = stored.zero_points if stored else np.zeros(1, np.int64)
        quantization = Quantization(common * own, zero_points)
    shape = own.size, rows.elements // own.size
    return replace(rows, shape=shape, quantization=quantization, parameters=(*rows.parameters, scales.place))
