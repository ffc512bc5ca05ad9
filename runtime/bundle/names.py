"""Names by which LiteRT-LM finds a bundle's models, the KV cache tensors (equal names share one buffer) and the
parameters of a pass. Spelled here and nowhere else."""

from __future__ import annotations

# `model_type` of each model section, without its `tf_lite_`.
PREFILL_DECODE = "prefill_decode"
EMBEDDER = "embedder"
PER_LAYER_EMBEDDER = "per_layer_embedder"
MTP_DRAFTER = "mtp_drafter"

# Key of the file's own metadata under which an export of this project says what it did to the chat template.
TEMPLATE_NOTE = "chat_template_verdict"

# And that under which it says the shortest context that can be chosen for it, in tokens.
SMALLEST_CONTEXT_NOTE = "smallest_context"

# What an export writes beside a bundle.
MANIFEST_NAME = "manifest.json"

# Constants of an export that no checkpoint holds as they are.
HEAD_ROWS, HEAD_SCALES = "clustered_head.rows", "clustered_head.scales"
INVERSE_ORDERING = "clustered_head.inverse_ordering"
HEAD_TOKENS = "clustered_head.tokens"  # In its place where only the CPU runs the drafter.
# By layer type: the rotary table of positions 0..ROPE_STRIDE-1, and that of every ROPE_STRIDE-th position.
ROPE_STRIDE = 512
ROPE_TABLES = {
    "sliding_attention": ("rope.sliding.fine", "rope.sliding.coarse"),
    "full_attention": ("rope.full.fine", "rope.full.coarse"),
}

# Composites for which LiteRT's GPU backend has kernels.
CACHE_UPDATE, RUNTIME_BMM, RMS_NORM = "odml.cache_update", "odml.runtime_bmm", "odml.rms_norm"

INPUT_POS = "input_pos"
PARAM_TENSOR = "param_tensor"
KV_PREFIX = "kv_cache_"


def key_name(layer: int) -> str:
    """The key cache of `layer`."""
    return f"{KV_PREFIX}k_{layer}"


def value_name(layer: int) -> str:
    """The value cache of `layer`."""
    return f"{KV_PREFIX}v_{layer}"


def is_cache(tensor: str) -> bool:
    """Whether `tensor` is a cache's name."""
    return tensor.startswith(KV_PREFIX)
