"""The stages of whole texts: generation by the Python runtime, and stock LiteRT-LM."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ...stock import StockRuntimeError, run_stock
from ..report.measures import Agreement
from ..report.report import Stage
from ..report.thresholds import Thresholds
from .drafter import Answer


def generation_stage(stage: Stage, answers: list[Answer], without_mtp: list[list[int]], limits: Thresholds) -> None:
    """Greedy text with MTP against the same without, and token by token against the oracle on the same text."""
    different = [
        f"prompt {number} differs from token {_first_difference(answer.generation.tokens, plain)} on"
        for number, (answer, plain) in enumerate(zip(answers, without_mtp, strict=True), 1)
        if answer.generation.tokens != plain
    ]
    stage.holds("MTP changes no token", different)
    agreement, identical = Agreement(limits.near_tie), 0
    for number, answer in enumerate(answers, 1):
        same = True
        for at, token in enumerate(answer.generation.tokens, len(answer.prompt)):
            theirs = answer.truth.logits_at(at - 1)
            where = f"prompt {number}, token {at - len(answer.prompt)} of the answer"
            same &= agreement.add(token, int(theirs.argmax()), theirs, where)
        identical += same
    stage.agrees("tokens that the oracle would choose", agreement, limits.top1, limits.wrong)
    stage.note("answers equal to the oracle's", f"{identical} of {len(answers)}")
    stage.note("tokens compared", float(agreement.total))


def stock_stage(
    stage: Stage,
    bundle: Path,
    texts: list[str],
    answers: list[Answer],
    max_tokens: int,
    threads: int,
    context_length: int | None = None,
) -> None:
    """Stock LiteRT-LM on the CPU: greedy text with MTP on against off, and against the Python runtime's.

    Args:
        stage: to fill.
        bundle: the .litertlm file.
        texts: the prompts as the model reads them, without the start token.
        answers: the Python runtime's.
        max_tokens: of each answer.
        threads: CPU threads.
        context_length: to load the bundle with; None for what it asks for.
    """
    if find_spec("litert_lm") is None:
        stage.skip("MTP changes no text", "litert-lm is not installed")
        return
    try:
        off, on = (
            run_stock(
                bundle, texts, speculative=mtp, threads=threads, max_tokens=max_tokens, context_length=context_length
            )
            for mtp in (False, True)
        )
    except StockRuntimeError as error:
        stage.holds("LiteRT-LM runs the bundle", [" ".join(str(error).split())[:300]])
        return
    # With MTP it finishes the round in which it reaches the last token.
    different = [
        f"prompt {n}" for n, (a, b) in enumerate(zip(off.texts, on.texts, strict=True), 1) if not b.startswith(a)
    ]
    stage.holds("MTP changes no text", different)
    other = [
        f"prompt {number}"
        for number, (text, answer) in enumerate(zip(off.texts, answers, strict=True), 1)
        if not _same_beginning(text, answer.generation.text)
    ]
    stage.holds("the Python runtime's text is LiteRT-LM's", other)
    stage.note("acceptance rate, as it reports", on.acceptance_rate)


def _first_difference(one: list[int], other: list[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _same_beginning(one: str, other: str) -> bool:
    """Whether the texts are equal as far as both go: an answer that is cut may end within a character."""
    return one.startswith(other.rstrip("\ufffd")) or other.startswith(one.rstrip("\ufffd"))
