"""Worker process: `python -m gemma_mtp.export.graphs.tracing.work SIGNATURES FOLDER` traces pickled signatures.

Tracing is single-threaded Python, so convert.py runs several of these side by side, which share the signatures: each
takes the next one that none has claimed and writes its file. A process of its own also keeps the converter's chatter,
which C++ writes straight to the terminal, out of the way.
"""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import sys
from pathlib import Path

CANNOT_WRITE = 74  # Exit code: the last line of standard error has path and reason.


def main() -> None:
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    # Torch and the converter make millions of objects that stay; to look through them again and again for garbage
    # takes a quarter of the time to load them and a tenth of that to trace. All are loaded before they are set aside.
    gc.disable()
    importlib.import_module("litert_torch")
    from .trace import trace

    gc.freeze()
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
