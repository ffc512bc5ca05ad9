"""`quantization_config` of a checkpoint's `config.json`: the one method that is read, and what to take for others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....runtime.errors import UserError
from ....runtime.fields import Fields, shown

# transformers' GemmaQuantizationConfig, of the `-qat-mobile-transformers` releases.
GEMMA = "gemma"
BITS = (2, 4, 8)
_OTHER_RELEASE = (
    "give the release of the same training whose name ends with -qat-q4_0-unquantized (bf16) or"
    " -qat-mobile-transformers instead"
)
_BASE = "give the checkpoint that it was made from, in bf16, fp16 or fp32"
_ADVICE = {
    "compressed-tensors": f"vLLM's format (-ct): {_OTHER_RELEASE}",
    "gguf": f"llama.cpp's format: {_OTHER_RELEASE}",
    "bitsandbytes": f"rounded for training or loading: {_BASE}; an adapter trained on it is merged with --adapter",
    "gptq": f"rounded after training: {_BASE}",
    "awq": f"rounded after training: {_BASE}",
}


def holds_codes(config: Mapping[str, Any], where: str) -> bool:
    """Whether a checkpoint with this `config.json` holds the codes of quant_method "gemma"; `where` names the file.

    Which tensors are codes, and of how many bits, is seen from the tensors themselves: the patterns in
    `module_quant_configs` are tried in an order that saving a configuration does not keep.

    Raises:
        UserError: it is quantized by another method, or the settings make no sense.
    """
    settings = _settings(Fields(config, where))
    if settings is None:
        return False
    method = settings.values.get("quant_method")
    if method is None and any(settings.values.get(key) for key in ("load_in_4bit", "load_in_8bit")):
        method = "bitsandbytes"
    if method != GEMMA:
        advice = _ADVICE.get(str(method), f"only {GEMMA!r} (-qat-mobile-transformers) can be read: {_BASE}")
        raise UserError(f"{where}: a quantized checkpoint (quant_method {shown(method or 'unknown')}), {advice}")
    settings.choice("num_bits", BITS, 4)
    modules = settings.object("module_quant_configs") if settings.has("module_quant_configs") else None
    for pattern in modules.values if modules else ():
        options = modules.object(pattern) if modules else settings
        options.choice("num_bits", BITS, settings.values.get("num_bits", 4))
        for key in options.values:
            if key != "num_bits":
                raise UserError(f"{where}: {options.path}{key} is unknown, expected num_bits alone (transformers 5.24)")
    return True


def _settings(fields: Fields) -> Fields | None:
    """Of the model or of its text part, as transformers looks for them (`get_hf_quantizer`)."""
    places = [fields]
    if isinstance(fields.values.get("text_config"), Mapping):
        places.append(fields.object("text_config"))
    for place in places:
        if place.has("quantization_config"):
            found = place.object("quantization_config")
            if found.values:
                return found
    return None
