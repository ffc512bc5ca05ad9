"""Codes on their way into a bundle: which weights a checkpoint holds as codes, and what each weight is stored from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ....quantize.formats import Storage
from ..config import DecoderConfig
from ..files import Checkpoint
from ..values import CodePart, Part, code_parts, weight_parts
from ..weights import Weight


def trained_bits(checkpoint: Checkpoint, weights: Iterable[Weight]) -> dict[str, int]:
    """Bits of the codes of those of `weights` that the checkpoint holds as codes, by name.

    Raises:
        UserError: a tensor's shape fits no number of bits.
    """
    found = {weight.name: checkpoint.trained_bits(weight.source) for weight in weights if weight.source}
    return {name: bits for name, bits in found.items() if bits}


def codes_note(trained: Mapping[str, Mapping[str, int]], stored: Mapping[str, Mapping[str, Storage]]) -> str | None:
    """What becomes of weights that come as codes, in one line; None where none does.

    Args:
        trained: bits of those weights, by model and name.
        stored: how every weight is stored, by model and name.
    """
    chosen = [stored[model][name] for model, bits in trained.items() for name in bits]
    if not chosen:
        return None
    kept = sum(storage.algorithm == "kept" for storage in chosen)
    opened = sum(storage.format.is_float for storage in chosen)
    anew = len(chosen) - kept - opened
    parts = [f"codes and scales of {kept} of {len(chosen)} quantized weights are kept"]
    parts += [f"{opened} are stored as the floats that they stand for"] if opened else []
    parts += [f"{anew} are rounded anew to fewer bits or blocks, which loses what was trained"] if anew else []
    return "; ".join(parts)


def stored_parts(
    checkpoint: Checkpoint, config: DecoderConfig, weight: Weight, storage: Storage
) -> Iterator[Part | CodePart]:
    """What `weight` is stored from, in parts of blocks of whole rows: codes where those are kept, values otherwise.

    Raises:
        UserError: see `weight_parts` and `code_parts`.
    """
    if storage.algorithm == "kept":
        return code_parts(checkpoint, weight, storage.format.bits)
    return weight_parts(checkpoint, config, weight)
