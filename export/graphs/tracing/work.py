"""Worker process: `python -m gemma_mtp.export.graphs.tracing.work FOLDER COUNT` traces the signatures that come there.

Tracing is single-threaded Python, so several run side by side and share the signatures: each takes the next one that
none has claimed and writes its file. Where processes can be forked, one loads the converter for COUNT of them. A
process of its own also keeps the converter's chatter, which C++ writes straight to the terminal, out of the way.
"""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import sys
import time
from pathlib import Path

from ....runtime.workers import fork

TASKS = "signatures.pickle"
CANNOT_WRITE = 74  # Exit code: the last line of standard error has path and reason.


def main() -> None:
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    source = folder / TASKS
    # Torch and the converter make millions of objects that stay; to look through them again and again for garbage
    # takes a quarter of the time to load them and a tenth of that to trace. All are loaded before they are set aside.
    gc.disable()
    importlib.import_module("litert_torch")
    from .trace import trace

    gc.freeze()
    while not source.exists():
        time.sleep(0.02)
    others: list[int] = []
    for _ in range(count - 1):
        process = fork()
        if process == 0:
            others = []
            break
        others.append(process)
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
    for process in others:
        _wait_for(process)


def _wait_for(process: int) -> None:
    """Wait for a forked process, and end as it did if it failed."""
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if code < 0:
        os.kill(os.getpid(), -code)
    if code:
        sys.exit(code)


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
