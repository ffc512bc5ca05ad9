"""What a person can choose about an export, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..quantize.recipes import DEFAULT, DEFAULT_FOR_CODES, Recipe, read_recipe
from ..runtime.bundle.context.placeholder import is_placeholder, placeholder_length
from ..runtime.errors import UserError
from .checkpoint.config import TargetConfig
from .models.kv_cache import CACHE_DTYPES, CacheFormat, cache_length

if TYPE_CHECKING:  # It imports torch, which commands that only run bundles do without.
    from .checkpoint.pair import Pair

# LiteRT-LM drops a prefill longer than the room that is left, so one that always fits must be among them.
SHORT_PREFILL = 8
DEFAULT_PREFILL_LENGTHS = (128, 1024)
# The longest context that an app can choose, in the class of Google's own bundles (32,003 is a prime).
DEFAULT_CONTEXT_LENGTH = 32_002
# What a bundle takes where nobody chooses, and a fixed context has by default: caches cost memory.
MODEST_CONTEXT_LENGTH = 4096
# A verify pass of 4 tokens fills one tile of XNNPACK's kernels on ARM64 and AVX2; the fifth row pays for a second one.
DEFAULT_DRAFT_TOKENS = 3
_MAX_DRAFT_TOKENS = 15
# What LiteRT-LM calls each kind of activations in a section's `prefer_activation_type`.
ACTIVATIONS = {"fp16": "fp16", "fp32": "fp32", "mixed": "fp32_fp16"}
# Where target and drafter can run, as LiteRT-LM names it in `backend_constraint`.
BACKENDS = ("cpu", "gpu")


@dataclass(frozen=True)
class ExportOptions:
    """Resolved options of one export.

    `context_length` is the longest context, prompt and answer together, that can be chosen when the bundle is loaded,
    in tokens, or the only one where `fixed_context`; `prefill_lengths` ascend.
    `draft_tokens` is what LiteRT-LM drafts per round; `verify_lengths`, ascending, are further draft lengths that a
    runtime may choose from. `activations`, one of ACTIVATIONS, is what a GPU computes in; None lets LiteRT-LM
    choose. `backends`, in the order of BACKENDS, are those that target and drafter are for. `kv_cache` is how
    caches are stored.
    """

    context_length: int
    prefill_lengths: tuple[int, ...]
    draft_tokens: int
    verify_lengths: tuple[int, ...]
    recipe: Recipe
    activations: str | None = None
    backends: tuple[str, ...] = BACKENDS
    kv_cache: CacheFormat = "fp32"
    fixed_context: bool = False

    @property
    def advertised_context(self) -> int:
        """The context of a bundle for which nobody chooses another, in tokens."""
        return self.context_length if self.fixed_context else min(self.context_length, MODEST_CONTEXT_LENGTH)

    @property
    def slots(self) -> int:
        """Length of every cache in the graphs."""
        if self.fixed_context:
            return cache_length(self.context_length, self.longest_draft)
        return placeholder_length(self.context_length)

    @property
    def longest_draft(self) -> int:
        """The longest draft that the bundle can verify."""
        return max(self.draft_tokens, *self.verify_lengths, 0)


def default_weights(pair: Pair) -> str:
    """Name of the recipe for `pair` where a person names none."""
    return DEFAULT_FOR_CODES if pair.target.packed else DEFAULT


def resolve_options(
    config: TargetConfig,
    *,
    context_length: int | None = None,
    prefill_lengths: tuple[int, ...] | None = None,
    draft_tokens: int = DEFAULT_DRAFT_TOKENS,
    verify_lengths: tuple[int, ...] = (),
    weights: str = DEFAULT,
    activations: str | None = None,
    backends: tuple[str, ...] = BACKENDS,
    kv_cache: CacheFormat = "fp32",
    fixed_context: bool = False,
) -> ExportOptions:
    """Options with defaults filled in from the target's limits.

    Raises:
        UserError: naming the option that makes no sense.
    """
    recipe = read_recipe(weights)
    if activations is not None and activations not in ACTIVATIONS:
        raise UserError(f"--activations: {activations!r} is unknown, expected one of {', '.join(ACTIVATIONS)}")
    if kv_cache not in CACHE_DTYPES:
        raise UserError(f"--kv-cache: {kv_cache!r} is unknown, expected one of {', '.join(CACHE_DTYPES)}")
    for backend in backends or ("",):
        if backend not in BACKENDS:
            raise UserError(f"--backends: {backend!r} is unknown, expected one or more of {', '.join(BACKENDS)}")
    if activations is not None and "gpu" not in backends:
        raise UserError(f"--activations: {activations} is for the GPU, which --backends leaves out; drop one of them")
    if kv_cache == "fp16" and "gpu" in backends and activations not in (None, "fp16"):
        # LiteRT-LM 0.18.1 wrote nonsense then: its kernels store what they compute in, whatever the tensor's type.
        raise UserError(
            f"--kv-cache: fp16 gives wrong text on a GPU that computes in {activations}; use --activations fp16, or"
            " fp32 or int8 caches"
        )
    if not 1 <= draft_tokens <= _MAX_DRAFT_TOKENS:
        raise UserError(f"--num-draft-tokens: {draft_tokens}, expected 1 to {_MAX_DRAFT_TOKENS}")
    for length in verify_lengths:
        if not 1 <= length <= _MAX_DRAFT_TOKENS:
            raise UserError(f"--verify-lengths: {length}, expected draft lengths of 1 to {_MAX_DRAFT_TOKENS}")
    if verify_lengths and set(verify_lengths) == {draft_tokens}:
        raise UserError(
            f"--verify-lengths: {draft_tokens} is what --num-draft-tokens asks for anyway; name other lengths, or leave"
            " it out"
        )
    longest = config.max_position_embeddings
    usual = MODEST_CONTEXT_LENGTH if fixed_context else DEFAULT_CONTEXT_LENGTH
    context = context_length if context_length is not None else min(usual, longest)
    shortest = SHORT_PREFILL + max(draft_tokens, *verify_lengths, 0) + 1
    if not shortest <= context <= longest:
        raise UserError(
            f"--context-length: {context}, expected {shortest} to {longest} (max_position_embeddings of the target)"
        )
    if prefill_lengths is None:
        lengths = {length for length in DEFAULT_PREFILL_LENGTHS if length <= context}
    else:
        lengths = set(prefill_lengths)
    for length in sorted(lengths):
        if not 1 <= length <= context:
            raise UserError(f"--prefill-lengths: {length}, expected 1 to the context length, {context}")
        if is_placeholder(length):
            raise UserError(
                f"--prefill-lengths: {length} is prime, which LiteRT-LM takes for a placeholder; use {length + 1}"
            )
    if not lengths or min(lengths) > SHORT_PREFILL:
        lengths.add(SHORT_PREFILL)
    further = tuple(sorted(set(verify_lengths) - {draft_tokens}))
    return ExportOptions(
        context,
        tuple(sorted(lengths)),
        draft_tokens,
        further,
        recipe,
        activations,
        tuple(backend for backend in BACKENDS if backend in backends),
        kv_cache,
        fixed_context,
    )
