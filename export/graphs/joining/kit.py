"""All parts of a recording in one module, side by side, each on inputs of its own; so torch traces them in one go."""

from __future__ import annotations

import torch

from .recording import Recording, tensors_in

Tensors = dict[str, torch.Tensor]
_ARGUMENTS = "arguments"
INPUTS = f"{_ARGUMENTS}_"  # Before the places of inputs, in the converted kit.


class Kit(torch.nn.Module):
    """Every part of `recording`; inputs and outputs are called by `place`."""

    def __init__(self, recording: Recording) -> None:
        super().__init__()
        self.recording = recording

    def forward(self, arguments: Tensors) -> Tensors:
        results: Tensors = {}
        for number, part in enumerate(self.recording.parts):
            given = [arguments[place(number, index)] for index in range(len(part.inputs))]
            passed = {id(tensor) for tensor in given}
            made = [tensor for tensor in tensors_in(part.run(given)) if id(tensor) not in passed]
            results |= {place(number, index): tensor for index, tensor in enumerate(made)}
        return results

    def samples(self) -> dict[str, Tensors]:
        """Arguments to trace with."""
        return {
            _ARGUMENTS: {
                place(number, index): _sample(tensor)
                for number, part in enumerate(self.recording.parts)
                for index, tensor in enumerate(part.inputs)
            }
        }


def _sample(tensor: torch.Tensor) -> torch.Tensor:
    """Integers are places, and 0 is one. The rest is never written or read, so it costs no memory however large."""
    return (torch.zeros_like if tensor.dtype == torch.int32 else torch.empty_like)(tensor, device="cpu")


def place(part: int, index: int) -> str:
    """Name of an input or an output of a part."""
    return f"{part}.{index}"
