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

from ...runtime.bundle.flatbuffer import pack, parse
from ..models.windowed import register_lowering
from .joining.join import join
from .joining.kit import Kit
from .joining.recording import record
from .signatures import Signature, Tensors

WEIGHT_PREFIX = "weights_"
INPUT_PREFIX = "inputs_"
CANNOT_WRITE = 74  # Exit code: the last line of standard error has path and reason.


def trace(signature: Signature) -> bytes:
    """Flatbuffer of one signature whose weights are inputs; a few hundred kilobytes whatever the model's size.

    Each kind of part is traced once, and the graph joined from the parts.
    """
    import litert_torch  # noqa: F401  Seconds of import time, paid by the worker alone.

    register_lowering()
    recording = record(signature)
    kit = Kit(recording)
    model = parse(to_flatbuffer(signature.name, kit, kit.samples()))
    names = [f"{WEIGHT_PREFIX}{weight.name}" for weight in signature.weights]
    return pack(join(model, recording, signature.name, [*names, *(f"{INPUT_PREFIX}{name}" for name in signature.inputs)]))


def to_flatbuffer(name: str, module: torch.nn.Module, samples: dict[str, Tensors]) -> bytes:
    """What the converter makes of `module`, run on `samples`; the entries of an argument `a` become inputs `a_*`."""
    import litert_torch

    model: Any = litert_torch.signature(name, module.eval(), sample_kwargs=samples).convert()
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
