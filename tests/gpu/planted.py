"""Exports of the shipped pair with one feature of its graphs taken out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gemma_mtp.export import pipeline
from gemma_mtp.export.bundle import assembly
from gemma_mtp.export.graphs import bind
from gemma_mtp.export.graphs.signatures import Signature, Tensors
from gemma_mtp.export.graphs.tracing.convert import Conversion, conversion
from gemma_mtp.export.graphs.tracing.trace import trace
from gemma_mtp.export.models import layers
from gemma_mtp.export.models.layers import Weights
from tests.conftest import Exports

Change = Callable[[Signature], Signature]


def export_planted(
    exports: Exports,
    name: str,
    patch: pytest.MonkeyPatch,
    traced_anew: tuple[str, ...] = (),
    change: Change = lambda signature: signature,
) -> Path:
    """Bundle of an export in float32 in which the signatures `traced_anew` are changed and traced in this process.

    So whatever `patch` replaces in the modules that make the graphs takes effect in them.
    """

    @contextlib.contextmanager
    def planted(signatures: list[Signature], **options: Any) -> Iterator[Conversion]:
        as_ever = [signature for signature in signatures if signature.name not in traced_anew]
        with conversion(as_ever, **options) as running:
            done = running.take([signature.name for signature in as_ever])
        yield Conversion(done | {s.name: trace(change(s)) for s in signatures if s.name in traced_anew})

    patch.setattr(assembly, "conversion", planted)
    patch.setattr(pipeline, "_check_gpu", lambda paths: None)  # It refuses most of these.
    return exports(f"planted-{name}", activations="fp16") / "model.litertlm"


def no_param_tensor(exports: Exports, patch: pytest.MonkeyPatch) -> Path:
    """`verify` and the drafter make their parameters from the positions instead of taking them."""

    def change(signature: Signature) -> Signature:
        def parameters(config: None, weights: Weights, positions: torch.Tensor) -> torch.Tensor:
            first, end = positions[:1], positions[-1:] + 1
            return torch.cat((first, end, end, torch.zeros(4, dtype=torch.int32))).reshape(1, 1, 1, 7)

        def function(weights: Weights, inputs: Tensors, pieces: Any) -> Tensors:
            made = pieces.once(parameters, None, weights, inputs["input_pos"])
            return signature.function(weights, {**inputs, "param_tensor": made}, pieces)

        kept = {name: spec for name, spec in signature.inputs.items() if name != "param_tensor"}
        return replace(signature, function=function, inputs=kept)

    return export_planted(exports, "no-param-tensor", patch, ("verify", "mtp_drafter"), change)


def added_mask(exports: Exports, patch: pytest.MonkeyPatch) -> Path:
    """The drafter adds its mask to the scores instead of selecting among them."""
    patch.setattr(layers, "masked_scores", lambda scores, mask: scores + mask)
    return export_planted(exports, "added-mask", patch, ("mtp_drafter",))


def no_gather(exports: Exports, patch: pytest.MonkeyPatch) -> Path:
    """Lookups in float32 tables stay EMBEDDING_LOOKUP."""
    patch.setattr(bind, "gather_rows", lambda model: None)
    return export_planted(exports, "no-gather", patch)


def plain_product_in_drafter(exports: Exports, patch: pytest.MonkeyPatch) -> Path:
    """The drafter reads its caches by an ordinary product, not through `odml.runtime_bmm`."""

    def product(lhs: torch.Tensor, cache: torch.Tensor, param_tensor: torch.Tensor, window: Any) -> torch.Tensor:
        del window
        return torch.einsum("abcd,abed->abce", lhs + param_tensor.sum() * 0, cache)

    patch.setattr(layers, "query_key_product", product)
    patch.setattr(layers, "weight_value_product", product)
    return export_planted(exports, "plain-product", patch, ("mtp_drafter",))


def blind_drafter(exports: Exports, patch: pytest.MonkeyPatch) -> Path:
    """The drafter reads its caches as zeros."""

    def change(signature: Signature) -> Signature:
        def zeros(config: None, weights: Weights, cache: torch.Tensor) -> torch.Tensor:
            return cache * 0

        def function(weights: Weights, inputs: Tensors, pieces: Any) -> Tensors:
            caches = {name: tensor for name, tensor in inputs.items() if name.startswith("kv_cache_")}
            blank = {name: pieces.once(zeros, None, weights, tensor) for name, tensor in caches.items()}
            return signature.function(weights, {**inputs, **blank}, pieces)

        return replace(signature, function=function)

    return export_planted(exports, "blind-drafter", patch, ("mtp_drafter",), change)
