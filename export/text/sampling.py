"""How a checkpoint wants to be sampled, as transformers reads it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...runtime.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """Settings of `generate`; the defaults are those of transformers' GenerationConfig.

    `top_k` of 0 keeps the whole vocabulary. Without `do_sample` the others mean nothing.
    """

    do_sample: bool = False
    top_k: int = 50
    top_p: float = 1.0
    temperature: float = 1.0


def read_sampling(generation: Mapping[str, Any], where: str) -> Sampling:
    """Sampling settings of a checkpoint.

    Args:
        generation: contents of generation_config.json, empty if there is none. transformers has defaults for what it
            lacks; it takes no sampling settings from config.json.
        where: names the checkpoint in errors.

    Raises:
        UserError: a value of the wrong type or out of range.
    """
    values = {key: generation[key] for key in Sampling.__dataclass_fields__ if generation.get(key) is not None}
    for key, value in values.items():
        if problem := _problem(key, value, sampled=values.get("do_sample") is True):
            raise UserError(f"{where}: {key} in generation_config.json is {value!r}, expected {problem}")
    return Sampling(**values)


def _problem(key: str, value: Any, *, sampled: bool) -> str | None:
    """What was expected of `value` instead; None if it is right."""
    if key == "do_sample":
        return None if isinstance(value, bool) else "true or false"
    if key == "top_k":
        right = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        return None if right else "a whole number of tokens, 0 for all of them"
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if key == "top_p":
        return None if number and 0 < value <= 1 else "a share above 0 and up to 1"
    # transformers takes a temperature of 0 as long as it does not sample.
    return None if number and (value > 0 or (value == 0 and not sampled)) else "a number above 0"
