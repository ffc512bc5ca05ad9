"""Numbers with their units, for people."""

from __future__ import annotations


def size(count: float) -> str:
    """Bytes: 818.4 MB."""
    for unit in ("B", "kB", "MB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"
