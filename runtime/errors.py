"""What a person can cause and mend."""

from __future__ import annotations

# How Python, the dynamic linker, torch and C++ say that memory ran out; a thread is refused for its stack.
_SHORTAGES = (
    *("MemoryError", "annot allocate memory", "can't allocate memory", "failed to map segment", "std::bad_alloc"),
    *("pthread_create", "can't start new thread"),
    # CPython's own words where an extension could not allocate and did not say so.
    "error return without exception set",
)
OUT_OF_MEMORY = "out of memory, or of threads; close other programs, or use a machine with more"


class UserError(Exception):
    """Bad input or use.

    The message is one line: the file, tensor or option; what was found; what was expected; what to do.
    The command line prints it as it is and exits with code 2.
    """


class BundleError(UserError):
    """What is inside a bundle cannot be read: to `verify`, a check that failed; to other commands, bad input."""


def says_out_of_memory(text: str) -> bool:
    """Whether a library's error, or what a process has printed, tells of memory that ran out."""
    return any(shortage in text for shortage in _SHORTAGES)
