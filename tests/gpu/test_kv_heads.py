"""Several kv heads and E4B's order of layers on the GPU backend, also with a context chosen at load."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gpu.conftest import run_patiently

# A random pair of E4B's pattern, `e4b`: what it writes means nothing, so any difference shows.
pytestmark = [pytest.mark.gpu, pytest.mark.gpu_slow]
# Of 96, no multiple of anything in the graphs; the window is 8 tokens.
CHOSEN = 61
TEXTS = ["def area(self):\n    return self.width", "import os\nfor name in os.listdir('.'):\n    print(name)\n"]


@pytest.mark.parametrize("context", [None, CHOSEN])
def test_speculative_decoding_changes_no_token(context: int | None, e4b: Path, device: str) -> None:
    off, on = (
        run_patiently(
            e4b / "model.litertlm", TEXTS, speculative=mtp, backend="gpu", max_tokens=24, context_length=context
        )
        for mtp in (False, True)
    )
    assert len(set(off.texts)) == len(TEXTS)
    for expected, text in zip(off.texts, on.texts, strict=True):
        assert expected
        assert text.startswith(expected)
