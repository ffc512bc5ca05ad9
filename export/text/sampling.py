"""How a checkpoint wants to be sampled, as transformers reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...runtime.fields import Fields

# Beyond these a float of the bundle is zero or no longer a number that changes anything.
_LEAST_TEMPERATURE, _MOST_TEMPERATURE = 1e-6, 1e6


@dataclass(frozen=True)
class Sampling:
    """Settings of `generate`; the defaults are those of transformers' GenerationConfig.

    `top_k` of 0 keeps the whole vocabulary. Without `do_sample` the others mean nothing.
    """

    do_sample: bool = False
    top_k: int = 50
    top_p: float = 1.0
    temperature: float = 1.0


def read_sampling(raw: Mapping[str, Any], where: str) -> Sampling:
    """Sampling settings of a checkpoint.

    Args:
        raw: contents of generation_config.json, empty if there is none. transformers has defaults for what it lacks; it
            takes no sampling settings from config.json.
        where: names the file in errors.

    Raises:
        UserError: a value of the wrong type or out of range.
    """
    generation = Fields(raw, where)
    given = {key: generation.has(key) for key in Sampling.__dataclass_fields__}
    default = Sampling()
    do_sample = generation.flag("do_sample") if given["do_sample"] else default.do_sample
    temperature = default.temperature
    # transformers takes a temperature of 0 as long as it does not sample.
    if given["temperature"] and (do_sample or generation.values["temperature"] != 0):
        temperature = generation.number("temperature", least=_LEAST_TEMPERATURE, most=_MOST_TEMPERATURE)
    elif given["temperature"]:
        temperature = generation.number("temperature")
    return Sampling(
        do_sample=do_sample,
        top_k=generation.integer("top_k") if given["top_k"] else default.top_k,
        top_p=generation.number("top_p", above=0, most=1) if given["top_p"] else default.top_p,
        temperature=temperature,
    )
