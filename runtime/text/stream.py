"""Text from tokens as they come: never half a character, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

# What decoding puts where bytes are no whole character yet.
_INCOMPLETE = "\ufffd"
# A character is at most four byte tokens; one that is still incomplete then is a wrong byte, and is shown as such.
_LONGEST_CHARACTER = 4


class TextStream:
    """Turns tokens into text piece by piece.

    A piece ends only where a character ends, and text that may become a stop string is held back. Decoding starts some
    tokens before the new ones, because the text of a token can depend on the one before it.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop_strings: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop_strings = tuple(stop_strings)
        self._tokens: list[int] = []
        self._context = 0  # First token that is decoded again, for its effect on the next.
        self._shown = 0  # First token whose text has not been taken over yet.
        self._pending = ""  # Text that is whole, but may be the beginning of a stop string.
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that is certain after one more `token`; empty once a stop string was found."""
        if self.stopped:
            return ""
        self._tokens.append(token)
        return self._release(self._whole_text())

    def finish(self) -> str:
        """What was held back, when no more tokens come."""
        if self.stopped:
            return ""
        rest = self._release(self._new_text())
        if not self.stopped:
            rest, self._pending = rest + self._pending, ""
        return rest

    def _new_text(self) -> str:
        before = self._decode(self._tokens[self._context : self._shown])
        return self._decode(self._tokens[self._context :])[len(before) :]

    def _whole_text(self) -> str:
        """Text of the tokens not taken over yet; none while they end within a character."""
        text = self._new_text()
        if text.endswith(_INCOMPLETE) and len(self._tokens) - self._shown < _LONGEST_CHARACTER:
            return ""
        self._context, self._shown = self._shown, len(self._tokens)
        return text

    def _release(self, text: str) -> str:
        self._pending += text
        found = [at for stop in self._stop_strings if (at := self._pending.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._pending[: min(found)]
        keep = max((_overlap(self._pending, stop) for stop in self._stop_strings), default=0)
        cut = len(self._pending) - keep
        released, self._pending = self._pending[:cut], self._pending[cut:]
        return released


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` with which `stop` begins."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
