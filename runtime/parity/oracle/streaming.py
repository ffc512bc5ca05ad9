"""A transformers model whose weights stay in the checkpoint: each layer's are read, as float32, when the layer runs.

So an oracle in float32 needs the memory of its largest layer and of its head, not of the whole model: of E2B about 2 GB
instead of 20.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from ...errors import UserError
from ..weights.codes import Codes

_EMBEDDING, _HEAD = "embed_tokens.weight", "lm_head.weight"


class WeightSource(Protocol):
    """A checkpoint: tensors by their names in the decoder, such as `layers.0.mlp.up_proj.weight`, as float32."""

    def has(self, name: str) -> bool: ...

    def read(self, name: str) -> torch.Tensor: ...

    def read_rows(self, name: str, start: int, stop: int) -> torch.Tensor: ...

    def read_rows_at(self, name: str, rows: list[int]) -> torch.Tensor: ...

    def is_computed(self, name: str) -> bool:
        """Whether values are products, such as of an adapter, whose last bits depend on how they are computed."""
        ...

    def trained_bits(self, name: str) -> int | None:
        """Bits of a tensor's codes, if it holds those and not values."""
        ...

    def codes(self, name: str, rows: Sequence[int]) -> Codes:
        """The given rows of a tensor that holds codes."""
        ...


def stored_names(names: Iterable[str], source: WeightSource, *, tied: bool) -> dict[str, str]:
    """What `source` calls each parameter of a model with a decoder `model.` and a head `lm_head`.

    The head is where transformers takes it from (`PreTrainedModel.tie_weights`): the checkpoint's own, if it holds one;
    if not, the embedding. Where only the head is there, the embedding is tied to it in turn.

    Args:
        names: the model's parameters and buffers.
        source: its checkpoint.
        tied: `tie_word_embeddings` of the configuration that the model is loaded with.

    Raises:
        UserError: not tied, and the checkpoint holds but one of the two: transformers would make up the other.
    """
    missing = [name for name in (_EMBEDDING, _HEAD) if not source.has(name)]
    if missing and not tied:
        raise UserError(f"the checkpoint has no {missing[0]}, though its config.json says that the head is not tied")
    instead = {_EMBEDDING: _HEAD, _HEAD: _EMBEDDING}
    stored = {name: name.removeprefix("model.") for name in names}
    return {name: instead[found] if found in missing else found for name, found in stored.items()}


def stream_weights(model: Any, source: WeightSource, *, tied: bool) -> None:
    """Make `model`, a `Gemma4ForCausalLM` built on the meta device, run on the weights of `source`.

    Decoder layers and the head take their weights for the time that they run, embedding tables the rows that are asked
    for; what else there is (norms, the per-layer projection, rotary frequencies) is loaded now.

    Args:
        model: changed in place.
        source: its checkpoint.
        tied: see `stored_names`.

    Raises:
        UserError: a tensor is missing or cannot be read.
    """
    _compute_buffers(model)
    stored = stored_names(_all_names(model), source, tied=tied)
    on_demand: set[nn.Module] = {model.lm_head}
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            on_demand.add(module)
            _take_rows(module, source, stored[f"{name}.weight"])
    empty = {sub: {key: stored[f"{name}.{key}"] for key in _meta_tensors(sub)} for name, sub in model.named_modules()}
    for layer in (*model.model.layers, model.lm_head):
        _take_while_running(layer, source, empty)
        on_demand.update(layer.modules())
    for module, keys in empty.items():
        if module not in on_demand:
            _assign(module, {key: source.read(name) for key, name in keys.items()})


def float_bytes(module: nn.Module) -> int:
    """Bytes of a module's weights in float32."""
    return sum(4 * parameter.numel() for parameter in module.parameters())


def _all_names(model: nn.Module) -> list[str]:
    tensors = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    return [name for name, _ in tensors]


def _compute_buffers(model: Any) -> None:
    """Give every buffer that no checkpoint holds (rotary frequencies, embedding scales) its value."""
    for module in model.modules():
        for name in module._non_persistent_buffers_set:
            module._buffers[name] = torch.empty_like(module._buffers[name], device="cpu")
        if module._non_persistent_buffers_set:
            model._init_weights(module)


def _meta_tensors(module: nn.Module) -> list[str]:
    """Names of a module's own parameters and buffers that have no values yet."""
    own = {**module._parameters, **module._buffers}
    return [name for name, tensor in own.items() if tensor is not None and tensor.is_meta]


def _assign(module: nn.Module, values: dict[str, torch.Tensor]) -> None:
    for name, value in values.items():
        if name in module._parameters:
            module._parameters[name] = nn.Parameter(value, requires_grad=False)
        else:
            module._buffers[name] = value


def _take_while_running(layer: nn.Module, source: WeightSource, stored: dict[nn.Module, dict[str, str]]) -> None:
    wanted = {module: stored[module] for module in layer.modules()}
    empty = {module: {key: getattr(module, key) for key in keys} for module, keys in wanted.items()}

    def take(*_: Any) -> None:
        for module, keys in wanted.items():
            _assign(module, {key: source.read(name) for key, name in keys.items()})

    def give_back(*_: Any) -> None:
        for module, tensors in empty.items():
            _assign(module, tensors)

    layer.register_forward_pre_hook(take)
    layer.register_forward_hook(give_back)


def _take_rows(table: nn.Embedding, source: WeightSource, name: str) -> None:
    """Look tokens up in a table of just the rows that are asked for."""
    empty = table.weight

    def take(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        ids, places = arguments[0].unique(return_inverse=True)
        _assign(module, {"weight": source.read_rows_at(name, ids.tolist())})
        return (places, *arguments[1:])

    def give_back(module: nn.Module, *_: Any) -> None:
        _assign(module, {"weight": empty})

    # A row number is no token id any more: the padding id must not be taken for one.
    table.padding_idx = None
    table.register_forward_pre_hook(take)
    table.register_forward_hook(give_back)
