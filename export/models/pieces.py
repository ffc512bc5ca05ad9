"""A pass as a sequence of pieces, of which those of a kind are equal but for the weights they take.

Models call their parts through `Pieces`. Run directly, they are the model; recorded (graphs/joining), they say what
has to be traced and where each traced part goes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Protocol

import torch

from ..checkpoint.config import DecoderConfig
from .layers import Weights


class Pieces(Protocol):
    """What runs the pieces of a pass. Arguments and results: tensors, in tuples, dicts or dataclasses, or constants."""

    def once(self, function: Callable[..., Any], config: DecoderConfig, weights: Weights, *arguments: Any) -> Any:
        """`function(config, weights, *arguments)`, a part that a pass has once."""
        ...

    def layer(
        self,
        function: Callable[..., Any],
        kind: Hashable,
        config: DecoderConfig,
        weights: Weights,
        layer: int,
        *arguments: Any,
    ) -> Any:
        """`function(config, weights, layer, *arguments)`, a part of `layer`.

        On arguments and weights of the same shapes, `function` must do the same for all layers with an equal `kind`,
        with the weights that begin with `layers.<layer>.`.
        """
        ...

    def of_layer(self, x: torch.Tensor, layer: int) -> torch.Tensor:
        """`x[:, :, layer]` of `x` `[1, T, layers, n]`."""
        ...


class Directly:
    """Runs every piece where it stands."""

    def once(self, function: Callable[..., Any], config: DecoderConfig, weights: Weights, *arguments: Any) -> Any:
        return function(config, weights, *arguments)

    def layer(
        self,
        function: Callable[..., Any],
        kind: Hashable,
        config: DecoderConfig,
        weights: Weights,
        layer: int,
        *arguments: Any,
    ) -> Any:
        del kind
        return function(config, weights, layer, *arguments)

    def of_layer(self, x: torch.Tensor, layer: int) -> torch.Tensor:
        return x[:, :, layer]
