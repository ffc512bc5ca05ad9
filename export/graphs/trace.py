"""Worker process: `python -m gemma_mtp.export.graphs.trace SIGNATURES FOLDER` traces pickled signatures, one file each.

Tracing is single-threaded Python, so convert.py runs several of these side by side; a process of its own also keeps
the converter's chatter, which C++ writes straight to the terminal, out of the way.
"""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.weights import Role
from ..models.windowed import register_lowering
from .signatures import Signature, Tensors

WEIGHT_PREFIX = "weights_"
INPUT_PREFIX = "inputs_"
CANNOT_WRITE = 74  # Exit code: the last line of standard error has path and reason.


class _Entry(torch.nn.Module):
    """A signature's function as the converter takes it; nested arguments become `weights_*` and `inputs_*`."""

    def __init__(self, signature: Signature) -> None:
        super().__init__()
        self.signature = signature

    def forward(self, weights: Tensors, inputs: Tensors) -> Tensors:
        return self.signature.function(weights, inputs)


def trace(signature: Signature) -> bytes:
    """Flatbuffer of one signature whose weights are inputs; a few hundred kilobytes whatever the model's size."""
    import litert_torch  # Seconds of import time, paid by the worker alone.

    register_lowering()

    # Never written or read, so these cost no memory however large they are.
    weights = {
        weight.name: torch.empty(weight.shape, dtype=torch.int32 if weight.role is Role.INDEX else torch.float32)
        for weight in signature.weights
    }
    inputs = {name: torch.zeros(spec.shape, dtype=spec.dtype) for name, spec in signature.inputs.items()}
    entry = _Entry(signature).eval()
    converter = litert_torch.signature(signature.name, entry, sample_kwargs={"weights": weights, "inputs": inputs})
    model: Any = converter.convert()
    return model.model_content()


def main() -> None:
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    for signature in pickle.loads(source.read_bytes()):
        content = trace(signature)
        written = folder / f"{signature.name}.part"
        try:
            written.write_bytes(content)
        except OSError as error:
            print(f"{written}: {error.strerror}", file=sys.stderr)
            sys.exit(CANNOT_WRITE)
        os.replace(written, folder / f"{signature.name}.tflite")


if __name__ == "__main__":
    main()
