"""The demo: the shipped pair's bundle on stock LiteRT-LM, speculative decoding off and on, and its parity."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..runtime.bundle.inspection import inspect_bundle
from ..runtime.parity.report.report import Report
from ..runtime.parity.verify import Progress, VerifyOptions
from ..runtime.stock import StockRun, run_stock
from ..runtime.text.prompts import user_prompt
from .parity import verify_bundle

SMALL_PAIR = Path(__file__).parent / "small_pair"
# The small pair was trained to go on with Python source; a turn as its chat template renders it.
_TURN = "<|turn>user\n{prompt}<turn|>\n<|turn>model\n"
DEMO_PROMPT = """\
def is_package(self, fullname):
    filename = self.get_filename(fullname)"""
_PARITY_PROMPTS = (DEMO_PROMPT, "class Stack:\n    def __init__(self):", "def main(argv=None):\n    parser = argparse")


@dataclass(frozen=True)
class Comparison:
    """One prompt decoded without and with speculative decoding, `draft_tokens` a round."""

    prompt: str
    draft_tokens: int
    plain: StockRun
    speculative: StockRun

    @property
    def equal(self) -> bool:
        """Whether speculative decoding gave the same text.

        At the context's end LiteRT-LM finishes the round it is in, so up to `draft_tokens` more tokens may follow.
        """
        return all(map(str.startswith, self.speculative.texts, self.plain.texts))

    @property
    def overshoot(self) -> int:
        """Characters that the speculative run wrote after the plain one had reached the context's end."""
        return len(self.speculative.texts[0]) - len(self.plain.texts[0]) if self.equal else 0

    @property
    def acceptance_rate(self) -> float:
        """Share of drafted tokens that the target accepted, as the runtime reports it."""
        return self.speculative.acceptance_rate or 0.0

    @property
    def tokens_per_pass(self) -> float:
        """Mean tokens per target pass: the accepted drafts and the target's own token."""
        return 1.0 + self.draft_tokens * self.acceptance_rate


def compare(bundle: Path, prompt: str) -> Comparison:
    """Decode `prompt`, a user's turn, greedily on stock LiteRT-LM with speculative decoding off, then on.

    Raises:
        StockRuntimeError: the runtime failed.
    """
    draft_tokens = inspect_bundle(bundle).draft_tokens or 0
    rendered = [_TURN.format(prompt=prompt.strip())]
    plain, speculative = (run_stock(bundle, rendered, speculative=flag) for flag in (False, True))
    return Comparison(prompt, draft_tokens, plain, speculative)


def parity(bundle: Path, on_progress: Progress) -> Report:
    """Compare `bundle`, made from the shipped pair, with transformers' models; `on_progress` as of `verify`."""
    options = VerifyOptions(tuple(user_prompt(prompt) for prompt in _PARITY_PROMPTS))
    return verify_bundle(
        bundle, str(SMALL_PAIR / "target"), str(SMALL_PAIR / "drafter"), options, on_progress=on_progress
    )
