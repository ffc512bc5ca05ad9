"""A bundle's sampling settings against those that transformers' `generate` would use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

# What `generate` takes where GenerationConfig holds None (transformers 5, `_get_default_generation_params`).
_TOP_K, _TOP_P, _TEMPERATURE = 50, 1.0, 1.0


@dataclass(frozen=True)
class SamplingReference:
    """As transformers' GenerationConfig reads it from the checkpoint; `vocabulary` is the number of logits."""

    do_sample: bool | None
    top_k: int | None
    top_p: float | None
    temperature: float | None
    vocabulary: int


def sampling_problems(parameters: Any, reference: SamplingReference) -> Iterator[str]:
    """Where `SamplerParameters` choose otherwise than the checkpoint's generation settings, a line each."""
    if not reference.do_sample:
        if parameters.k != 1:
            yield f"top_k is {parameters.k}, expected 1: the checkpoint does not sample"
        return
    top_k = _TOP_K if reference.top_k is None else reference.top_k
    expected = {
        "top_k": (parameters.k, top_k or reference.vocabulary),
        "top_p": (parameters.p, _TOP_P if reference.top_p is None else reference.top_p),
        "temperature": (
            parameters.temperature,
            _TEMPERATURE if reference.temperature is None else reference.temperature,
        ),
    }
    for name, (found, wanted) in expected.items():
        if np.float32(found) != np.float32(wanted):
            yield f"{name} is {found:g}, expected {wanted:g}"
