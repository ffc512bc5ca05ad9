"""A worker that never ends by itself, in several ways, and a parent that waits for one."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import time

from gemma_mtp.runtime.workers import fork, worker


def main() -> None:
    how = sys.argv[1]
    if how.startswith("parent-of-"):
        with worker(__spec__.name, how.removeprefix("parent-of-"), stdout=subprocess.PIPE) as process:
            assert process.stdout
            print(process.stdout.readline().decode().strip(), flush=True)
            time.sleep(3600)
    if how == "by-its-pipe":  # As where the kernel knows no other way.
        ctypes.CDLL(None).prctl(1, 0)
    if how == "forked" and fork():
        time.sleep(3600)
    print(f"{how} sleeps", flush=True)
    if how == "holding-the-lock":
        ctypes.PyDLL(None).sleep(3600)
    time.sleep(3600)


if __name__ == "__main__":
    main()
