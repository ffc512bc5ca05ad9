"""What a bundle's models promise each other: signatures, tensor names, shapes. Read from the models, checked once.

LiteRT-LM finds tensors by name and accepts several spellings; bundles from elsewhere may use any of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..errors import UserError
from .cache_scales import scale_problems, scales_by_cache
from .model_file import ModelInfo, SignatureInfo, TensorInfo
from .names import (
    EMBEDDER,
    INPUT_POS,
    KV_PREFIX,
    MTP_DRAFTER,
    PARAM_TENSOR,
    PER_LAYER_EMBEDDER,
    PREFILL_DECODE,
    is_cache,
)

_POSITIONS = (INPUT_POS, "positions")
_MASKS = ("mask", "attn_mask")
MASK_DTYPES = ("bool", "float32", "float16")
_EMBEDDINGS, _PER_LAYER = "embeddings", "per_layer_embeddings"


@dataclass(frozen=True)
class StepSignature:
    """A signature that runs T tokens over the caches; a name is None where the signature has no such tensor.

    `masks` shows the columns that a token may attend to: `[1, 1, T, L]`.
    """

    info: SignatureInfo
    tokens: int
    positions: str
    mask: str
    mask_dtype: str
    parameters: str | None

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def columns(self) -> int:
        """Columns of the mask: the caches' slots, or twice as many in a pass that may overrun them."""
        return next(tensor.shape[-1] for tensor in self.info.inputs if tensor.name == self.mask)

    @property
    def cache_inputs(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and dtype of the caches that the signature reads, by name."""
        return self.info.caches(written=False)


@dataclass(frozen=True)
class Contract:
    """The signatures of one bundle, found and checked against each other.

    `prefills` and `verifies` ascend by length. `slots` is the length L of every cache; `hidden` is D, `vocabulary` V;
    `placeholder` is what the file has instead of `slots`, where the context was chosen when it was opened.
    `per_layer` is `(layers, ple_dim)`, None for models without per-layer embeddings. `cache_scales` has the scale of
    each int8 cache whose scale the models name: a stored q is the value q * scale; `scale_problems` says where models
    disagree about one.
    """

    prefills: tuple[StepSignature, ...]
    decode: StepSignature
    verifies: tuple[StepSignature, ...]
    drafter: StepSignature | None
    embedder: SignatureInfo
    per_layer_embedder: SignatureInfo | None
    slots: int
    hidden: int
    vocabulary: int
    per_layer: tuple[int, int] | None
    cache_scales: Mapping[str, float] = field(default_factory=dict)
    scale_problems: tuple[str, ...] = ()
    placeholder: int | None = None

    @property
    def max_draft_tokens(self) -> int:
        """The longest draft that can be verified; 0 if the bundle cannot draft."""
        return self.verifies[-1].tokens - 1 if self.drafter and self.verifies else 0

    @property
    def default_draft_tokens(self) -> int:
        """Draft length of the signature called `verify`, the one that LiteRT-LM runs; else the longest."""
        stock = next((step.tokens - 1 for step in self.verifies if step.name == "verify"), self.max_draft_tokens)
        return min(stock, self.max_draft_tokens)

    @property
    def draft_lengths(self) -> tuple[int, ...]:
        """Draft lengths with a verify signature of their own, ascending."""
        return tuple(verify.tokens - 1 for verify in self.verifies)


def read_contract(models: dict[str, ModelInfo], where: str) -> Contract:
    """Find the signatures of `models` (by model type) and check that they fit together; `where` names them in errors.

    Raises:
        UserError: a model, signature or tensor is missing, or the drafter does not fit the target.
    """
    for name in (PREFILL_DECODE, EMBEDDER):
        if name not in models:
            raise UserError(f"{where}: no {name} model (found {', '.join(models) or 'none'}); export or pack it again")
    target = list(models[PREFILL_DECODE].signatures)
    decode_info = next((signature for signature in target if signature.name == "decode"), None)
    if decode_info is None:
        raise UserError(f"{where}: prefill_decode has no signature decode (found {_names(target)})")
    decode = _step(decode_info, where)
    prefills = _ascending(_step(info, where) for info in target if info.name.startswith("prefill"))
    if not prefills:
        raise UserError(f"{where}: prefill_decode has no prefill signature (found {_names(target)})")
    verifies = _ascending(_step(info, where) for info in target if info.name.startswith("verify"))
    hidden = _tensor(decode_info, _EMBEDDINGS, where).shape[-1]
    per_layer = decode_info.input(_PER_LAYER)
    embedder = models[EMBEDDER].signatures[0]
    per_layer_embedder = _per_layer_embedder(models, per_layer, where)
    _check_width(embedder, hidden, where)
    for step in (*prefills, *verifies):
        if step.cache_inputs != decode.cache_inputs:
            raise UserError(f"{where}: {step.name} and decode take different caches; export the bundle again")
    drafter = models.get(MTP_DRAFTER)
    contract = Contract(
        prefills=prefills,
        decode=decode,
        verifies=verifies,
        drafter=_step(drafter.signatures[0], where) if drafter else None,
        embedder=embedder,
        per_layer_embedder=per_layer_embedder,
        slots=_tensor(decode_info, decode.mask, where).shape[-1],
        hidden=hidden,
        vocabulary=_output(decode_info, "logits", where).shape[-1],
        per_layer=(per_layer.shape[-2], per_layer.shape[-1]) if per_layer else None,
        cache_scales=scales_by_cache(models[PREFILL_DECODE].cache_scales),
        scale_problems=tuple(scale_problems({name: model.cache_scales for name, model in models.items()})),
    )
    _check_drafting(contract, where)
    return contract


def _step(info: SignatureInfo, where: str) -> StepSignature:
    positions = _one_of(info, _POSITIONS, where)
    mask = _one_of(info, _MASKS, where)
    known = {positions.name, mask.name, PARAM_TENSOR, _EMBEDDINGS, _PER_LAYER, "activations"}
    for tensor in info.inputs:
        if tensor.name not in known and not is_cache(tensor.name):
            raise UserError(f"{where}: {info.name} takes {tensor.name}, which this runtime does not know how to fill")
    if not info.caches(written=False):
        raise UserError(f"{where}: {info.name} takes no {KV_PREFIX} tensor")
    if mask.dtype not in MASK_DTYPES:
        raise UserError(f"{where}: {info.name} takes a {mask.dtype} mask, expected {', '.join(MASK_DTYPES)}")
    parameters = PARAM_TENSOR if info.input(PARAM_TENSOR) else None
    return StepSignature(info, positions.shape[0], positions.name, mask.name, mask.dtype, parameters)


def _ascending(steps: Iterable[StepSignature]) -> tuple[StepSignature, ...]:
    return tuple(sorted(steps, key=lambda step: step.tokens))


def _one_of(info: SignatureInfo, names: tuple[str, ...], where: str) -> TensorInfo:
    found = next((tensor for name in names if (tensor := info.input(name))), None)
    if found is None:
        raise UserError(f"{where}: {info.name} takes none of {', '.join(names)}; not a model for LiteRT-LM")
    return found


def _tensor(info: SignatureInfo, name: str, where: str) -> TensorInfo:
    found = info.input(name)
    if found is None:
        raise UserError(f"{where}: {info.name} takes no {name}; LiteRT-LM's MTP needs an external embedder")
    return found


def _output(info: SignatureInfo, name: str, where: str) -> TensorInfo:
    found = next((tensor for tensor in info.outputs if tensor.name == name), None)
    if found is None:
        raise UserError(f"{where}: {info.name} does not return {name}")
    return found


def _per_layer_embedder(models: dict[str, ModelInfo], needed: TensorInfo | None, where: str) -> SignatureInfo | None:
    if needed is None:
        return None
    if PER_LAYER_EMBEDDER not in models:
        raise UserError(f"{where}: decode takes {needed.name}, but there is no per_layer_embedder model")
    return models[PER_LAYER_EMBEDDER].signatures[0]


def _check_width(embedder: SignatureInfo, hidden: int, where: str) -> None:
    width = embedder.outputs[0].shape[-1]
    if width != hidden:
        raise UserError(f"{where}: embedder returns {width} values a token, but decode takes {hidden}")


def _check_drafting(contract: Contract, where: str) -> None:
    if contract.drafter is None:
        return
    drafter = contract.drafter.info
    if not contract.verifies:
        raise UserError(f"{where}: has an mtp_drafter, but prefill_decode has no verify signature to check its drafts")
    for step in (contract.decode, *contract.verifies):
        _output(step.info, "activations", where)
        if _output(step.info, "logits", where).shape[-2] != step.tokens:
            raise UserError(f"{where}: {step.name} does not return logits for each of its {step.tokens} tokens")
    width = _tensor(drafter, "activations", where).shape[-1]
    if width != 2 * contract.hidden:
        raise UserError(f"{where}: mtp_drafter takes activations of {width}, expected {2 * contract.hidden}")
    for name in ("logits", "projected_activations"):
        _output(drafter, name, where)
    written = contract.decode.info.caches(written=True)
    for name, tensor in drafter.caches(written=False).items():
        if written.get(name) != tensor:
            found = written.get(name)
            raise UserError(
                f"{where}: mtp_drafter reads {name} as {_shown(tensor)},"
                f" but the target {'writes ' + _shown(found) if found else 'does not write it'}"
            )


def _shown(tensor: tuple[tuple[int, ...], str]) -> str:
    return f"{tensor[1]} {list(tensor[0])}"


def _names(signatures: list[SignatureInfo]) -> str:
    return ", ".join(signature.name for signature in signatures) or "none"
