"""Which models a bundle has: the signatures of each, and where its weights come from."""

from __future__ import annotations

from dataclasses import dataclass

from ...runtime.bundle.names import EMBEDDER, MTP_DRAFTER, PER_LAYER_EMBEDDER, PREFILL_DECODE
from ..checkpoint.config import DecoderConfig
from ..checkpoint.files import Checkpoint
from ..checkpoint.pair import Pair
from ..checkpoint.weights import Weight
from ..models.kv_cache import KVSignature
from ..options import ExportOptions
from .signatures import (
    Signature,
    drafter_signature,
    embedder_signature,
    per_layer_embedder_signature,
    target_signatures,
)


@dataclass(frozen=True)
class ModelPlan:
    """One .tflite file: its signatures, and the checkpoint its weights come from."""

    signatures: list[Signature]
    checkpoint: Checkpoint
    config: DecoderConfig

    @property
    def weights(self) -> dict[str, Weight]:
        return {weight.name: weight for signature in self.signatures for weight in signature.weights}


def plan_models(pair: Pair, kv: KVSignature, options: ExportOptions) -> dict[str, ModelPlan]:
    """All models of a bundle by name, in the order in which they are written."""
    target, drafter = pair.target_config, pair.drafter_config
    signatures = {
        PREFILL_DECODE: target_signatures(
            target,
            kv,
            prefill_lengths=options.prefill_lengths,
            draft_tokens=options.draft_tokens,
            verify_lengths=options.verify_lengths,
        ),
        EMBEDDER: [embedder_signature(target)],
        PER_LAYER_EMBEDDER: [per_layer_embedder_signature(target)],
    }
    models = {name: ModelPlan(entries, pair.target, target) for name, entries in signatures.items()}
    return {**models, MTP_DRAFTER: ModelPlan([drafter_signature(target, drafter, kv)], pair.drafter, drafter)}
