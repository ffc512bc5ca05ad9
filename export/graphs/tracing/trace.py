"""Worker process: `python -m gemma_mtp.export.graphs.tracing.trace SIGNATURES FOLDER` traces pickled signatures.

Tracing is single-threaded Python, so convert.py runs several of these side by side, which share the signatures: each
takes the next one that none has claimed and writes its file. A process of its own also keeps the converter's chatter,
which C++ writes straight to the terminal, out of the way.
"""

from __future__ import annotations

import gc
import os
import pickle
import sys
from pathlib import Path

from ....runtime.bundle.flatbuffer import pack, parse
from ..joining.join import join
from ..joining.kit import Kit
from ..joining.recording import record
from ..signatures import Signature
from .converter import register_lowerings, to_flatbuffer

WEIGHT_PREFIX = "weights_"
INPUT_PREFIX = "inputs_"
CANNOT_WRITE = 74  # Exit code: the last line of standard error has path and reason.


def trace(signature: Signature) -> bytes:
    """Flatbuffer of one signature whose weights are inputs; a few hundred kilobytes whatever the model's size.

    Each kind of part is traced once, and the graph joined from the parts.
    """
    register_lowerings()
    recording = record(signature)
    kit = Kit(recording)
    model = parse(to_flatbuffer(signature.name, kit, kit.samples()))
    return pack(join(model, recording, signature.name, given_names(signature)))


def given_names(signature: Signature) -> list[str]:
    """Names of the inputs of a traced graph: its weights, then what the signature takes."""
    weights = (f"{WEIGHT_PREFIX}{weight.name}" for weight in signature.weights)
    return [*weights, *(f"{INPUT_PREFIX}{name}" for name in signature.inputs)]


def main() -> None:
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    import litert_torch  # noqa: F401

    # Torch and the converter make millions of objects that stay; to look through them again and again for garbage
    # takes a tenth of the time.
    gc.freeze()
    gc.disable()
    for signature in pickle.loads(source.read_bytes()):
        if not _claim(folder / f"{signature.name}.claim"):
            continue
        content = trace(signature)
        gc.collect()
        written = folder / f"{signature.name}.part"
        try:
            written.write_bytes(content)
        except OSError as error:
            print(f"{written}: {error.strerror}", file=sys.stderr)
            sys.exit(CANNOT_WRITE)
        os.replace(written, folder / f"{signature.name}.tflite")


def _claim(path: Path) -> bool:
    """Is this the first of the workers to ask for what `path` stands for?"""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError as error:
        print(f"{path}: {error.strerror}", file=sys.stderr)
        sys.exit(CANNOT_WRITE)
    return True


if __name__ == "__main__":
    main()
