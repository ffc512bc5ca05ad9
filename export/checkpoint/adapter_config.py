"""`adapter_config.json` of a PEFT adapter: what of it decides how the adapter is merged, and what cannot be merged."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...runtime.errors import UserError
from ...runtime.fields import Fields, shown

_MOST_RANK = 2**20
# Initialisations that change the weights of the base as well, which a saved adapter does not hold.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
# Kinds of LoRA whose result is no sum of a weight and a low-rank product, or that need what is not in the files.
_OTHER_KINDS = {
    "alora_invocation_tokens": "aLoRA, which acts after certain tokens only",
    "arrow_config": "Arrow, which chooses among adapters for each token",
    "kasa_config": "KaSA",
    "layer_replication": "an adapter of a model whose layers are repeated",
    "lora_bias": "an adapter with biases, which Gemma 4 has none of",
    "megatron_config": "an adapter for Megatron",
    "monteclora_config": "MonteCLoRA",
    "use_bdlora": "BD-LoRA",
    "use_qalora": "QALoRA",
    "velora_config": "VeLoRA",
}


@dataclass(frozen=True)
class LoraSettings:
    """A LoRA adapter's settings, by the names that PEFT has for them.

    `base` is the model that it was trained on, as the trainer called it; patterns go by module name; `token_indices`
    are those of `trainable_token_indices` for the token embedding.
    """

    base: str | None
    r: int
    lora_alpha: float
    use_rslora: bool
    use_dora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    modules_to_save: tuple[str, ...]
    token_indices: tuple[int, ...]

    def rank(self, module: str) -> int:
        """Rank of the adapter of `module`, such as `model.language_model.layers.0.self_attn.q_proj`."""
        return _first_match(self.rank_pattern, module, self.r)

    def scaling(self, module: str) -> float:
        """What the product B A of `module` is multiplied by: alpha / r, or alpha / sqrt(r) with `use_rslora`."""
        rank, alpha = self.rank(module), _first_match(self.alpha_pattern, module, self.lora_alpha)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank

    def saves(self, module: str) -> bool:
        """Is `module` one of `modules_to_save`, trained whole?"""
        return any(module == name or module.endswith(f".{name}") for name in self.modules_to_save)


def read_lora_settings(raw: Mapping[str, Any], where: str) -> LoraSettings:
    """Settings from the contents of `adapter_config.json`; `where` names the file in errors.

    `target_modules`, `exclude_modules` and `layers_to_transform` are not looked at: which modules were trained, the
    tensors say. `fan_in_fan_out` concerns no layer of Gemma 4 (PEFT sets it back for `nn.Linear`).

    Raises:
        UserError: not LoRA, or a kind of it that cannot be merged into weights.
    """
    fields = Fields(raw, where)
    kind = raw.get("peft_type")
    if kind != "LORA":
        raise UserError(
            f"{where}: peft_type is {shown(kind)}, expected 'LORA'; merge it with PEFT (merge_and_unload, where it"
            " can), save the model and give that"
        )
    for key, name in _OTHER_KINDS.items():
        if raw.get(key):
            raise UserError(f"{where}: {key} is set: {name}; expected LoRA, rsLoRA or DoRA: merge it with PEFT first")
    start = raw.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        raise UserError(
            f"{where}: init_lora_weights is {shown(start)}, which changed the base's weights, too, and the adapter"
            " alone does not say how; load it with PEFT, save what merge_and_unload() returns, and give that"
        )
    return LoraSettings(
        base=(fields.text("base_model_name_or_path") or None) if fields.has("base_model_name_or_path") else None,
        r=fields.integer("r", 8, least=1, most=_MOST_RANK),
        lora_alpha=fields.number("lora_alpha", 8, above=0),
        use_rslora=fields.has("use_rslora") and fields.flag("use_rslora"),
        use_dora=fields.has("use_dora") and fields.flag("use_dora"),
        rank_pattern={
            key: ranks.integer(key, least=1, most=_MOST_RANK) for ranks, key in _pattern(fields, "rank_pattern")
        },
        alpha_pattern={key: alphas.number(key, above=0) for alphas, key in _pattern(fields, "alpha_pattern")},
        modules_to_save=_texts(fields, "modules_to_save"),
        token_indices=_token_indices(fields),
    )


def _pattern(fields: Fields, key: str) -> Iterator[tuple[Fields, str]]:
    """The members of an object whose keys are regular expressions of module names."""
    pattern = fields.object(key) if fields.has(key) else Fields({}, fields.where)
    for name in pattern.values:
        try:
            re.compile(name)
        except (re.error, RecursionError, OverflowError) as error:
            raise UserError(
                f"{fields.where}: {key} has the name {shown(name)}, expected a regular expression ({error})"
            ) from error
        yield pattern, name


def _texts(fields: Fields, key: str) -> tuple[str, ...]:
    found = fields.sequence(key) if fields.has(key) else []
    if not all(isinstance(each, str) for each in found):
        fields.refuse(key, "a list of texts")
    return tuple(found)


def _token_indices(fields: Fields) -> tuple[int, ...]:
    key = "trainable_token_indices"
    if not fields.has(key):
        return ()
    if isinstance(fields.values[key], Mapping):
        named = fields.object(key)
        others = [name for name in named.values if name.rpartition(".")[2] != "embed_tokens"]
        if others or len(named.values) > 1:
            raise UserError(f"{fields.where}: {key} names {', '.join(named.values)}; expected embed_tokens")
        if not named.values:
            return ()
        fields, key = named, next(iter(named.values))
    indices = fields.sequence(key)
    if not all(isinstance(each, int) and not isinstance(each, bool) and each >= 0 for each in indices):
        fields.refuse(key, "a list of token numbers")
    if len(set(indices)) < len(indices):
        fields.refuse(key, "each token once")
    return tuple(indices)


def _first_match(pattern: Mapping[str, Any], module: str, default: Any) -> Any:
    """PEFT's rule (`get_pattern_key`): the first key that is a regular expression of the module name's end."""
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", module)), default)
