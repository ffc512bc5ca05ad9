"""What a person can cause and mend."""

from __future__ import annotations


class UserError(Exception):
    """Bad input or use.

    The message is one line: the file, tensor or option; what was found; what was expected; what to do.
    The command line prints it as it is and exits with code 2.
    """


class BundleError(UserError):
    """What is inside a bundle cannot be read: to `verify`, a check that failed; to other commands, bad input."""
