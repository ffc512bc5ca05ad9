"""The demo: the shipped pair's bundle chats on stock LiteRT-LM, speculative decoding off and on, and its parity."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..runtime.bundle.inspection import inspect_bundle
from ..runtime.parity.options import VerifyOptions
from ..runtime.parity.report.report import Report
from ..runtime.parity.stage_runs import Progress
from ..runtime.stock import Conversation, ConversationRequest, run_conversations
from ..runtime.text.prompts import user_prompt
from .parity import verify_bundle

SMALL_PAIR = Path(__file__).parent / "small_pair"
# The small pair was trained to go on with Python source, turn by turn.
DEMO_PROMPT = """\
def is_package(self, fullname):
    filename = self.get_filename(fullname)"""
# To which its answers are short; it repeats itself at length after many others.
_FURTHER_TURNS = ("objs = (json.loads(line) for line in infile)", "def get_shared(ld_headers):")
_PARITY_PROMPTS = (DEMO_PROMPT, "class Stack:\n    def __init__(self):", "def main(argv=None):\n    parser = argparse")


@dataclass(frozen=True)
class Comparison:
    """A chat without and with speculative decoding, `draft_tokens` a round; `asked` are the user's turns."""

    asked: tuple[str, ...]
    draft_tokens: int
    plain: Conversation
    speculative: Conversation
    acceptance_rate: float

    @property
    def equal(self) -> bool:
        """Whether speculative decoding changed nothing: prompts, answers, and how many tokens are in the cache.

        At the context's end LiteRT-LM finishes the round it is in, so there it may say a little more.
        """
        pairs = zip(self.plain.turns, self.speculative.turns, strict=True)
        return all(off == on or (not off.stopped and on.text.startswith(off.text)) for off, on in pairs)

    @property
    def tokens_per_pass(self) -> float:
        """Mean tokens per target pass: the accepted drafts and the target's own token."""
        return 1.0 + self.draft_tokens * self.acceptance_rate


def compare(bundle: Path, prompt: str | None) -> Comparison:
    """Hold a chat greedily on stock LiteRT-LM with speculative decoding off, then on; `prompt` is its only turn.

    Raises:
        StockRuntimeError: the runtime failed.
    """
    asked = (DEMO_PROMPT, *_FURTHER_TURNS) if prompt is None else (prompt,)
    request = ConversationRequest(asked)
    plain, speculative = (run_conversations(bundle, [request], speculative=flag) for flag in (False, True))
    return Comparison(
        asked,
        inspect_bundle(bundle).draft_tokens or 0,
        plain.conversations[0],
        speculative.conversations[0],
        speculative.acceptance_rate or 0.0,
    )


def parity(bundle: Path, on_progress: Progress) -> Report:
    """Compare `bundle`, made from the shipped pair, with transformers' models; `on_progress` as of `verify`."""
    options = VerifyOptions(tuple(user_prompt(prompt) for prompt in _PARITY_PROMPTS))
    return verify_bundle(
        bundle, str(SMALL_PAIR / "target"), str(SMALL_PAIR / "drafter"), options, on_progress=on_progress
    )
