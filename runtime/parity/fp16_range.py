"""How a pair's activations fit float16, from transformers' own model on given prompts.

Two passes over every prompt: one in float32, which gives the largest absolute activation of each layer; and one in
which the result of every module is rounded to float16, as a GPU stores it, which gives what rounding costs. Seen are
the modules' inputs and outputs, not what lies between them, such as attention scores. The squares inside an RMS norm,
which would overflow much earlier, are not counted: the graphs leave them to the GPU's own kernel, which holds them.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..text.prompts import Prompt, read_prompts
from .oracle.oracle import Oracle
from .oracle.reference import draft, target_states

LARGEST = 65504.0
# Prompts show some of what a model does: closer than this factor to the limit counts as too close.
MARGIN = 4.0
# Relative error of a layer's output from which rounding is called a large loss; float16 itself rounds by 0.0005.
LARGE_LOSS = 0.05
_DRAFTED = 4
# Modules outside the layers that are looked at.
_OUTSIDE = ("norm", "lm_head", "pre_projection", "post_projection", "per_layer_model_projection")
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)(?:\.|$)")


@dataclass
class LayerRange:
    """Largest values seen in one layer, or in one module outside the layers.

    `largest` is the largest absolute input or output of a module, and `where` names it. `loss` is the relative error of
    the output in float16, infinite where it overflowed.
    """

    model: str
    layer: str
    largest: float = 0.0
    where: str = ""
    loss: float = 0.0

    @property
    def verdict(self) -> str:
        """`overflow`, `close`, `loss` or `ok`."""
        if not self.largest <= LARGEST:
            return "overflow"
        if self.largest > LARGEST / MARGIN:
            return "close"
        return "loss" if not self.loss <= LARGE_LOSS else "ok"


@dataclass(frozen=True)
class RangeReport:
    """Every layer of target and drafter, and how many next tokens float16 changed over all `tokens`."""

    layers: tuple[LayerRange, ...]
    tokens: int
    changed: int
    limit: float = LARGEST

    @property
    def activations(self) -> str:
        """What to give `--activations`: float16 unless something overflows, comes close, or loses much."""
        return "fp16" if all(layer.verdict == "ok" for layer in self.layers) else "fp32"

    @property
    def overflows(self) -> bool:
        return any(layer.verdict == "overflow" for layer in self.layers)

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types; an infinite loss is None."""
        rows = [
            asdict(layer) | {"verdict": layer.verdict, "loss": layer.loss if math.isfinite(layer.loss) else None}
            for layer in self.layers
        ]
        return {
            "activations": self.activations,
            "tokens": self.tokens,
            "changed_tokens": self.changed,
            "limits": {"largest": self.limit, "margin": MARGIN, "loss": LARGE_LOSS},
            "layers": rows,
        }


def fp16_range(
    oracle: Oracle,
    tokenizer_folder: Path,
    prompts: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> RangeReport:
    """Run every prompt of the JSON-lines file `prompts` through both of the oracle's models.

    Args:
        oracle: transformers' models of the pair.
        tokenizer_folder: the target's checkpoint, for its tokenizer and chat template.
        prompts: JSON lines; see prompts.py.
        on_progress: gets the number of prompts done and of all.

    Raises:
        UserError: the prompts cannot be read, or one of them is empty.
    """
    from transformers import AutoTokenizer

    entries = read_prompts(prompts)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    texts = [_tokens(tokenizer, entry, f"{prompts}, prompt {place}") for place, entry in enumerate(entries, 1)]
    models = (oracle.target, oracle.drafter)
    meter = _Meter({"target": oracle.target, "drafter": oracle.drafter})
    changed = total = 0
    for done, tokens in enumerate(texts, 1):
        exact, exact_drafts = _run(models, tokens, meter.measure)
        rounded, rounded_drafts = _run(models, tokens, meter.compare_rounded)
        changed += int((exact != rounded).sum()) + sum(
            a != b for a, b in zip(exact_drafts, rounded_drafts, strict=True)
        )
        total += len(exact) + len(exact_drafts)
        on_progress(done, len(texts))
    return RangeReport(tuple(seen for seen in meter.ranges.values() if seen.where), total, changed)


def _tokens(tokenizer: Any, prompt: Prompt, where: str) -> list[int]:
    if prompt.text is not None:
        tokens = tokenizer(tokenizer.bos_token + prompt.text, add_special_tokens=False)["input_ids"]
    else:
        tokens = tokenizer.apply_chat_template(list(prompt.messages), add_generation_prompt=True, return_dict=False)
    if len(tokens) < 2:
        raise UserError(f"{where}: {len(tokens)} tokens; expected a text of at least two")
    return list(tokens)


def _run(
    models: tuple[Any, Any], tokens: Sequence[int], hooks: Callable[[], contextlib.AbstractContextManager[None]]
) -> tuple[torch.Tensor, list[int]]:
    """Next tokens `[T]` of the target, and what the drafter drafts after the last of `tokens`."""
    target, drafter = models
    with hooks():
        states = target_states(target, tokens)
        steps = draft(target, drafter, states, tokens[-1], len(tokens) - 1, _DRAFTED)
    return states.logits.argmax(-1), [step[0] for step in steps]


@dataclass
class _Meter:
    """Hooks on all modules of `models`, and what they saw by model and layer."""

    models: dict[str, torch.nn.Module]
    ranges: dict[tuple[str, str], LayerRange] = field(default_factory=dict)
    _outputs: list[torch.Tensor] = field(default_factory=list)

    @contextlib.contextmanager
    def measure(self) -> Iterator[None]:
        """Record the largest values, and every layer's output."""
        self._outputs.clear()
        with self._hooked(self._record):
            yield

    @contextlib.contextmanager
    def compare_rounded(self) -> Iterator[None]:
        """Round every module's result to float16, and compare every layer's with the one recorded before."""
        with self._hooked(self._round):
            yield

    @contextlib.contextmanager
    def _hooked(self, seen: Callable[[LayerRange, str, torch.nn.Module, Any, Any], Any]) -> Iterator[None]:
        handles = []
        for model, root in self.models.items():
            for name, module in root.named_modules():
                layer, inside = _place(name)
                if not layer:
                    continue
                entry = self.ranges.setdefault((model, layer), LayerRange(model, layer))

                def hook(
                    module: torch.nn.Module, inputs: Any, output: Any, entry: LayerRange = entry, inside: str = inside
                ) -> Any:
                    return seen(entry, inside, module, inputs, output)

                handles.append(module.register_forward_hook(hook))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _record(self, entry: LayerRange, inside: str, module: torch.nn.Module, inputs: Any, output: Any) -> None:
        if not inside and isinstance(_first(output), torch.Tensor):
            self._outputs.append(_first(output).clone())
        for side, tensor in (("input", _first(inputs)), ("output", _first(output))):
            if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
                continue
            largest, where = float(tensor.abs().max()), f"{inside} {side}".strip()
            if largest > entry.largest:
                entry.largest, entry.where = largest, where

    def _round(self, entry: LayerRange, inside: str, module: torch.nn.Module, inputs: Any, output: Any) -> Any:
        result = _first(output)
        if not isinstance(result, torch.Tensor) or not result.is_floating_point():
            return None
        if not inside or not list(module.children()):
            result = result.half().float()
        if not inside and self._outputs:
            exact = self._outputs.pop(0)
            error = float((result - exact).norm() / exact.norm().clamp_min(1e-12))
            entry.loss = max(entry.loss, error if math.isfinite(error) else math.inf)
        return (result, *output[1:]) if isinstance(output, tuple) else result


def _place(name: str) -> tuple[str, str]:
    """`layers.3` and the module's name inside it; outside the layers, the module's own name and none."""
    found = _LAYER.search(name)
    if found:
        return f"layers.{found[1]}", name[found.end() :]
    own = name.rsplit(".", 1)[-1]
    return (own if own in _OUTSIDE else ""), ""


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) and value else value
