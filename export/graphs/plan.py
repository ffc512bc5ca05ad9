"""Which models a bundle has: the signatures of each, and where its weights come from."""

from __future__ import annotations

from dataclasses import dataclass

from ...runtime.bundle.names import EMBEDDER, MTP_DRAFTER, PER_LAYER_EMBEDDER, PREFILL_DECODE
from ..checkpoint.config import DecoderConfig, TargetConfig
from ..checkpoint.files import Checkpoint
from ..checkpoint.pair import Pair
from ..checkpoint.weights import Weight
from ..models.kv_cache import KVSignature
from ..models.windowed import Window
from ..options import SHORT_PREFILL, ExportOptions
from .signatures import (
    Signature,
    drafter_signature,
    embedder_signature,
    per_layer_embedder_signature,
    target_signatures,
)
from .slots.blocks import SLOTS_PER_BLOCK


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
    draft = drafter_signature(target, drafter, kv, scatter="gpu" not in options.backends)
    return {**models, MTP_DRAFTER: ModelPlan([draft], pair.drafter, drafter)}


def smallest_context(target: TargetConfig, kv: KVSignature, options: ExportOptions) -> int:
    """The shortest context that can be chosen at load, in tokens: every slice of the caches must fit into them."""
    passes = (1, *options.prefill_lengths, options.longest_draft + 1)
    shortest = SHORT_PREFILL + options.longest_draft + 1
    block = target.sliding.window or SLOTS_PER_BLOCK
    cut = [block] if block < kv.length else []
    if target.sliding.window is not None:
        windows = (Window(target.sliding.window, tokens) for tokens in passes)
        cut += [window.reach for window in windows if window.cuts(kv.length)]
    return max(shortest, *cut)
