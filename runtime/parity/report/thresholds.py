"""What still counts as the same model: one table, by weight format, with the reason for each number.

Errors are shares of the range (largest minus smallest value) of what is compared, unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from ...errors import UserError
from ...fields import Fields, read_object, shown


@dataclass(frozen=True)
class Thresholds:
    """Limits of one weight format.

    Attributes:
        embeddings: largest error of a looked-up embedding.
        cache: largest error of any cache tensor after prefill.
        cache_relative: norm of a cache tensor's error over the tensor's norm.
        logits: largest error of a logit in decode and verify.
        near_tie: how far the oracle's logits of two candidates may be apart, in logits, for a swap of the two to be
            a near tie; a larger one is wrong.
        logits_mean: mean error of a position's logits.
        kl: KL divergence of the next-token distributions in nats, the mean over positions.
        top1: least share of positions whose most probable token is the same.
        wrong: largest share of positions whose most probable token differs by more than a near tie.
        top5: least mean share of the five most probable tokens in common.
        activations: least cosine of activations with transformers'.
        draft_logits: largest error of a scored token's logit in a draft step.
        draft_activations: least cosine of projected activations.
        clusters: least share of the oracle's chosen clusters that the bundle chose as well, over all steps.
        draft_top1: least share of draft steps with the same token.
        draft_wrong: `wrong` for draft steps: another choice of clusters can hide the best token.
        cache_size, logits_size, activations_size, draft_activations_size: how far the norm of a cache tensor, of a
            position's logits, activations or projected activations may be from the oracle's, as a share of it: a factor
            changes neither a cosine nor a choice.
        bits: bound on what a kernel may differ between decode, verify and prefill of the same tokens; zero is expected
            and said where it is not met.
        acceptance: largest difference of the acceptance rate from the oracle's, in drafted tokens.
    """

    embeddings: float
    cache: float
    cache_relative: float
    logits: float
    near_tie: float
    logits_mean: float
    kl: float
    top1: float
    wrong: float
    top5: float
    activations: float
    draft_logits: float
    draft_activations: float
    clusters: float
    draft_top1: float
    draft_wrong: float
    cache_size: float
    logits_size: float
    activations_size: float
    draft_activations_size: float
    bits: float
    acceptance: float


THRESHOLDS = {
    # float32 on both sides: only the order of additions differs, which was 3e-7 to 7e-7 of the range on the shipped
    # pair; an RMSNorm epsilon of 1e-4 instead of 1e-6 is 3.5e-5.
    "fp32": Thresholds(
        embeddings=1e-6,  # A lookup and one product; measured 0.
        cache=2e-5,
        cache_relative=2e-5,
        logits=2e-5,
        near_tie=5e-3,  # Two errors of `logits` on a range of 120.
        logits_mean=5e-6,
        kl=1e-8,  # Measured 1e-12.
        top1=0.99,  # Ties happen in repetitive text; `wrong` allows no other difference.
        wrong=0.0,
        top5=0.98,
        activations=0.999999,
        draft_logits=2e-5,
        draft_activations=0.999999,
        clusters=0.99,
        draft_top1=0.99,
        draft_wrong=0.0,
        cache_size=1e-5,  # Measured 8e-8, as the next three at most 5e-7.
        logits_size=1e-5,
        activations_size=1e-5,
        draft_activations_size=1e-5,
        bits=1e-5,  # Measured 0.
        acceptance=0.01,
    ),
    # A weight is off by at most 1/254 of its channel's largest, and activations are quantized as well, at run time.
    # Measured: the worst of the shipped pair and of its form widened to E2B's sizes. Above that the limits leave room
    # for the outliers in large models' activations.
    "int8": Thresholds(
        embeddings=4e-3,  # 1/254, the most that rounding can do; measured 0.0024.
        cache=0.05,  # Measured 0.009.
        cache_relative=0.06,  # Measured 0.014.
        logits=0.06,  # Measured 0.015.
        near_tie=0.5,  # The widest swap measured was 0.11.
        logits_mean=0.03,  # Measured 0.009.
        kl=0.01,  # Measured 6e-4.
        top1=0.9,  # Measured 0.96.
        wrong=0.01,  # Measured 0.
        top5=0.85,  # Measured 0.97.
        activations=0.995,  # Measured 0.9997.
        draft_logits=0.06,  # Measured 0.021.
        draft_activations=0.995,  # Measured 0.9997.
        clusters=0.9,  # Measured 0.987.
        draft_top1=0.9,  # Measured 0.98.
        draft_wrong=0.03,  # Measured 0.
        cache_size=0.01,  # Measured 2e-4: rounding errors of many elements cancel in a norm.
        logits_size=0.05,  # Measured 0.013.
        activations_size=0.02,  # Measured 9e-4.
        draft_activations_size=0.03,  # Measured 0.006.
        bits=1e-5,  # Measured 0: decode, verify and prefill quantize each token's activations by themselves.
        acceptance=0.05,  # Measured 0.004.
    ),
}

# Rounding a weight to float16 is off by at most 2^-12 of it; activations stay float32.
THRESHOLDS["fp16"] = replace(
    THRESHOLDS["fp32"],
    embeddings=3e-4,
    cache=1e-3,
    cache_relative=1e-3,
    logits=1e-3,
    near_tie=0.06,
    logits_mean=3e-4,
    kl=1e-5,
    activations=0.99999,
    draft_logits=1e-3,
    draft_activations=0.99999,
    clusters=0.98,
    cache_size=3e-4,
    logits_size=1e-3,
    activations_size=1e-3,
    draft_activations_size=1e-3,
)
# Formats whose bundles are compared with transformers' models on the weights as they are stored: see
# weights/as_stored.py. What is left is that activations are quantized at run time, as beside int8 weights.
AS_STORED = ("int4", "int2")
THRESHOLDS |= {name: replace(THRESHOLDS["int8"], embeddings=1e-6) for name in AS_STORED}

# What caches of a dtype allow beyond the limits of the weights, where it is more.
CACHE_LIMITS: dict[str, dict[str, float]] = {
    "float32": {},
    # Rounding is off by at most 2^-12 of an entry; measured on the shipped pair with float32 weights.
    "float16": {
        "cache": 1e-3,  # Measured 2.6e-4.
        "cache_relative": 1e-3,  # Measured 3.1e-4.
        "logits": 1e-3,  # Measured 2.5e-4.
        "near_tie": 0.06,  # Two measured errors of `logits` on a range of 120.
        "logits_mean": 3e-4,  # Measured 6.7e-5.
        "kl": 1e-5,  # Measured 1.2e-7.
        "activations": 0.99999,  # Measured 0.9999997.
        "draft_logits": 1e-3,  # Measured 2.7e-4.
        "draft_activations": 0.99999,  # Measured 0.9999997.
        "clusters": 0.98,  # Measured 0.999.
        "cache_size": 3e-4,
        "logits_size": 1e-3,  # Measured 1.5e-4.
        "activations_size": 1e-3,
        "draft_activations_size": 1e-3,
    },
    # An entry is off by at most half a step, of which 127 reach to sqrt(head_dim) or 6 standard deviations, and what
    # lies beyond is cut off. Measured on the shipped pair with float32 weights, where nothing was cut off: about what
    # int8 weights lose, so the limits are theirs. A model whose entries are cut off fails in `cache`.
    "int8": {
        "cache": 0.05,  # Measured 0.010.
        "cache_relative": 0.06,  # Measured 0.020.
        "logits": 0.06,  # Measured 0.018.
        "near_tie": 0.5,
        "logits_mean": 0.03,  # Measured 0.005.
        "kl": 0.01,  # Measured 5e-4.
        "top1": 0.9,  # Measured 0.95, near ties all.
        "wrong": 0.01,
        "top5": 0.85,  # Measured 1.
        "activations": 0.995,  # Measured 0.9995.
        "draft_logits": 0.06,  # Measured 0.014.
        "draft_activations": 0.995,  # Measured 0.9999.
        "clusters": 0.9,  # Measured 0.990.
        "draft_top1": 0.9,  # Measured 0.98.
        "draft_wrong": 0.03,
        "acceptance": 0.05,  # Measured 0.001.
        "cache_size": 0.01,  # Measured 3e-4.
        "logits_size": 0.05,
        "activations_size": 0.02,
        "draft_activations_size": 0.03,
    },
}
# Limits that are lower ones.
_AT_LEAST = ("top1", "top5", "activations", "draft_activations", "clusters", "draft_top1")


def with_caches(limits: Thresholds, dtypes: Iterable[str]) -> Thresholds:
    """`limits` of weights with what caches of these dtypes allow, too: of each the looser."""
    for dtype in dtypes:
        allowed = {
            name: (min if name in _AT_LEAST else max)(value, getattr(limits, name))
            for name, value in CACHE_LIMITS.get(dtype, {}).items()
        }
        limits = replace(limits, **allowed)
    return limits


def weight_format(constant_bytes: dict[str, int]) -> str:
    """The format whose limits apply to a model with these bytes of constants by dtype: its narrowest."""
    names = {"int2": "int2", "int4": "int4", "int8": "int8", "float16": "fp16"}
    return next((name for dtype, name in names.items() if constant_bytes.get(dtype)), "fp32")


def read_thresholds(
    given: str | None, found: str, where: str, caches: Sequence[str] = ("float32",)
) -> tuple[str, Thresholds]:
    """Name and limits to judge by.

    Args:
        given: `--recipe-thresholds`: a name of THRESHOLDS; a JSON file of `{"format": name, limit: number, ...}` that
            changes some of a format's limits; None for those of `found`.
        found: the bundle's own weight format.
        where: names the bundle in errors.
        caches: dtypes of the bundle's caches.

    Raises:
        UserError: no such format or limit, or the file cannot be read.
    """
    if given is None or given in THRESHOLDS:
        name = given or found
        if name not in THRESHOLDS:
            raise UserError(
                f"{where}: no limits for {name} weights ({', '.join(THRESHOLDS)} have some); give a file of them with"
                " --recipe-thresholds"
            )
        return name + _named(caches), with_caches(THRESHOLDS[name], caches)
    path = Path(given)
    if not path.exists():
        raise UserError(f"--recipe-thresholds: {given!r} is none of {', '.join(THRESHOLDS)}, and no such JSON file")
    content = Fields(read_object(path), str(path))
    known = {field.name for field in fields(Thresholds)}
    base = content.text("format", found)
    if wrong := sorted(content.values.keys() - known - {"format"}):
        raise UserError(f"{path}: {shown(wrong[0])} is no limit; expected numbers for some of {sorted(known)}")
    changes = {key: content.number(key, least=0) for key in content.values if key != "format"}
    if base not in THRESHOLDS and known - set(changes):
        raise UserError(f"{path}: format {base!r} has no limits of its own; give all of {sorted(known)}")
    if base not in THRESHOLDS:
        return base, Thresholds(**changes)
    return f"{base}{_named(caches)}, changed by {path.name}", replace(with_caches(THRESHOLDS[base], caches), **changes)


def _named(caches: Sequence[str]) -> str:
    """What is added to a format's name where caches are not float32."""
    return "" if list(caches) in ([], ["float32"]) else f", {' and '.join(caches)} caches"
