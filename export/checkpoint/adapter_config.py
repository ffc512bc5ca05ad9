"""`adapter_config.json` of a PEFT adapter: what of it decides how the adapter is merged, and what cannot be merged."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...runtime.errors import UserError

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
    kind = raw.get("peft_type")
    if kind != "LORA":
        raise UserError(
            f"{where}: peft_type is {kind!r}, expected 'LORA'; merge it with PEFT (merge_and_unload, where it can),"
            " save the model and give that"
        )
    for key, name in _OTHER_KINDS.items():
        if raw.get(key):
            raise UserError(f"{where}: {key} is set: {name}; expected LoRA, rsLoRA or DoRA: merge it with PEFT first")
    start = raw.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        raise UserError(
            f"{where}: init_lora_weights is {start!r}, which changed the base's weights, too, and the adapter alone"
            " does not say how; load it with PEFT, save what merge_and_unload() returns, and give that"
        )
    return LoraSettings(
        base=raw.get("base_model_name_or_path") or None,
        r=_number(raw, "r", where, whole=True),
        lora_alpha=_number(raw, "lora_alpha", where),
        use_rslora=bool(raw.get("use_rslora")),
        use_dora=bool(raw.get("use_dora")),
        rank_pattern=dict(raw.get("rank_pattern") or {}),
        alpha_pattern=dict(raw.get("alpha_pattern") or {}),
        modules_to_save=tuple(raw.get("modules_to_save") or ()),
        token_indices=_token_indices(raw.get("trainable_token_indices"), where),
    )


def _number(raw: Mapping[str, Any], key: str, where: str, *, whole: bool = False) -> Any:
    value = raw.get(key, 8)
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or value <= 0:
        raise UserError(f"{where}: {key} is {value!r}, expected a positive number")
    return value


def _token_indices(found: object, where: str) -> tuple[int, ...]:
    if isinstance(found, Mapping):
        others = [name for name in found if str(name).rpartition(".")[2] != "embed_tokens"]
        if others or len(found) > 1:
            raise UserError(
                f"{where}: trainable_token_indices names {', '.join(map(str, found))}; expected embed_tokens"
            )
        found = next(iter(found.values()), None)
    return tuple(map(int, found)) if isinstance(found, list) else ()


def _first_match(pattern: Mapping[str, Any], module: str, default: Any) -> Any:
    """PEFT's rule (`get_pattern_key`): the first key that is a regular expression of the module name's end."""
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", module)), default)
