"""What a signature's function runs: parts of every kind, and the calls of them, by the values that they take and make.

The function is run once on tensors without data (torch's meta device). A part that a layer of its kind has had before
is not run again: its results have the same shapes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ...checkpoint.config import DecoderConfig
from ...checkpoint.weights import Role
from ...models.layers import Weights
from ..signatures import Signature


@dataclass(frozen=True)
class Part:
    """One kind of part: `run` gives its results from tensors of the shapes and dtypes of `inputs`.

    The inputs are the values of `weights`, then the tensors of `arguments`, whose places they take. `before` is what
    `function` takes around its weights: the configuration and, if it has one, the first layer of the kind.
    """

    name: str
    function: Callable[..., Any]
    before: tuple[Any, ...]
    weights: tuple[str, ...]
    arguments: tuple[Any, ...]
    inputs: tuple[torch.Tensor, ...]

    def run(self, inputs: list[torch.Tensor]) -> Any:
        given = iter(inputs)
        weights = {name: next(given) for name in self.weights}
        config, *layer = self.before
        return self.function(config, weights, *layer, *map_tensors(lambda _: next(given), self.arguments))


@dataclass(frozen=True)
class Call:
    """One run of the `part`th part: the values that it takes, and those that it makes.

    `layer` is the layer that it belongs to, None for a part that a pass has once.
    """

    name: str
    part: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    layer: int | None = None


@dataclass
class Recording:
    """All parts and calls of a signature.

    Values are numbered: first the signature's weights, then its inputs, in its order, then what the calls make.
    """

    given: list[str]
    parts: list[Part] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    outputs: dict[str, int] = field(default_factory=dict)


def record(signature: Signature) -> Recording:
    """What `signature` runs."""
    with torch.device("meta"):
        weights = {
            weight.name: torch.empty(weight.shape, dtype=torch.int32 if weight.role is Role.INDEX else torch.float32)
            for weight in signature.weights
        }
        inputs = {name: torch.empty(spec.shape, dtype=spec.dtype) for name, spec in signature.inputs.items()}
        recorder = _Recorder(weights, inputs)
        outputs = signature.function(weights, inputs, recorder)
    recorder.recording.outputs = {name: recorder.value_of(tensor) for name, tensor in outputs.items()}
    return recorder.recording


def map_tensors(function: Callable[[torch.Tensor], torch.Tensor], structure: Any) -> Any:
    """`structure` with every tensor in its tuples, dicts and dataclasses replaced by what `function` gives for it."""
    if isinstance(structure, torch.Tensor):
        return function(structure)
    if isinstance(structure, tuple):
        return tuple(map_tensors(function, part) for part in structure)
    if isinstance(structure, dict):
        return {key: map_tensors(function, part) for key, part in structure.items()}
    if dataclasses.is_dataclass(structure) and not isinstance(structure, type):
        parts = {entry.name: getattr(structure, entry.name) for entry in dataclasses.fields(structure)}
        return dataclasses.replace(structure, **{key: map_tensors(function, part) for key, part in parts.items()})
    return structure


def tensors_in(structure: Any) -> list[torch.Tensor]:
    """The tensors of `structure`, in the order of `map_tensors`."""
    found: list[torch.Tensor] = []
    map_tensors(lambda tensor: found.append(tensor) or tensor, structure)
    return found


def select_layer(config: None, weights: Weights, layer: int, x: torch.Tensor) -> torch.Tensor:
    """`x[:, :, layer]`. Of all parts' functions the one whose graph depends on the layer's number, in one constant."""
    del config, weights
    return x[:, :, layer]


class _Used(dict[str, torch.Tensor]):
    """Weights that remember which of them were taken, in order."""

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__(weights)
        self.used: dict[str, None] = {}

    def __getitem__(self, name: str) -> torch.Tensor:
        self.used[name] = None
        return super().__getitem__(name)


class _Recorder:
    """`Pieces` that are written down; see models/pieces.py."""

    def __init__(self, weights: dict[str, torch.Tensor], inputs: dict[str, torch.Tensor]) -> None:
        self.recording = Recording([*weights, *inputs])
        # Tensors are kept, so that no two of them get the same id.
        self._values: list[torch.Tensor] = [*weights.values(), *inputs.values()]
        self._numbers = {id(tensor): number for number, tensor in enumerate(self._values)}
        self._weights = weights
        self._results: list[Any] = []  # Of every part, at its first run.
        self._kinds: dict[Hashable, list[int]] = {}

    def value_of(self, tensor: torch.Tensor) -> int:
        """The number of a value.

        Raises:
            AssertionError: it was computed outside all pieces.
        """
        if id(tensor) not in self._numbers:
            raise AssertionError(f"a tensor {list(tensor.shape)} comes from none of the signature's pieces")
        return self._numbers[id(tensor)]

    def once(self, function: Callable[..., Any], config: DecoderConfig, weights: Weights, *arguments: Any) -> Any:
        del weights
        return self._call(function.__name__.strip("_"), self._new(function, (config,), arguments), arguments)

    def layer(
        self,
        function: Callable[..., Any],
        kind: Hashable,
        config: DecoderConfig,
        weights: Weights,
        layer: int,
        *arguments: Any,
    ) -> Any:
        del weights
        alike = self._kinds.setdefault((function, kind, config, _shapes(arguments)), [])
        part = next((part for part in alike if self._fits(part, layer)), None)
        if part is None:
            part = self._new(function, (config, layer), arguments)
            alike.append(part)
        return self._call(f"layers.{layer}.{function.__name__.strip('_')}", part, arguments, layer)

    def of_layer(self, x: torch.Tensor, layer: int) -> torch.Tensor:
        alike = self._kinds.setdefault((select_layer, _shapes(x)), [])
        if not alike:
            alike.append(self._new(select_layer, (None, x.shape[2] - 1), (x,)))
        return self._call(f"layers.{layer}.select", alike[0], (x,), layer)

    def _new(self, function: Callable[..., Any], before: tuple[Any, ...], arguments: tuple[Any, ...]) -> int:
        config, *layer = before
        weights = _Used(self._weights)
        self._results.append(function(config, weights, *layer, *arguments))
        inputs = (*(self._weights[name] for name in weights.used), *tensors_in(arguments))
        name = function.__name__.strip("_")
        self.recording.parts.append(Part(name, function, before, tuple(weights.used), arguments, inputs))
        return len(self._results) - 1

    def _fits(self, number: int, layer: int) -> bool:
        """Has `layer` all weights that the part takes, in the same shapes?"""
        part = self.recording.parts[number]
        names = zip(part.weights, _renamed(part, layer), strict=True)
        return all(
            name in self._weights and _shapes(self._weights[name]) == _shapes(self._weights[first])
            for first, name in names
        )

    def _call(self, name: str, number: int, arguments: tuple[Any, ...], layer: int | None = None) -> Any:
        part = self.recording.parts[number]
        taken = [*(self._weights[weight] for weight in _renamed(part, layer)), *tensors_in(arguments)]
        # A result that is one of the arguments is no new value.
        passed = {id(first): now for first, now in zip(part.inputs, taken, strict=True)}
        made: list[int] = []

        def value(first: torch.Tensor) -> torch.Tensor:
            if id(first) in passed:
                return passed[id(first)]
            tensor = torch.empty_like(first)
            self._numbers[id(tensor)] = len(self._values)
            made.append(len(self._values))
            self._values.append(tensor)
            return tensor

        results = map_tensors(value, self._results[number])
        self.recording.calls.append(Call(name, number, tuple(map(self.value_of, taken)), tuple(made), layer))
        return results


def _shapes(structure: Any) -> Hashable:
    return tuple((tensor.shape, tensor.dtype) for tensor in tensors_in(structure))


def _renamed(part: Part, layer: int | None) -> Iterator[str]:
    """Names of what `layer` has for the part's weights."""
    first = f"layers.{part.before[-1]}."
    for name in part.weights:
        yield f"layers.{layer}.{name.removeprefix(first)}" if layer is not None and name.startswith(first) else name
