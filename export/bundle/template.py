"""The chat template that goes into a bundle: the checkpoint's, in a form that LiteRT-LM renders alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ...runtime.errors import UserError
from ..templates.adapt import Adapted, adapt_template
from ..text.files import TextFiles

_SHOWN_CHANGES = 3


def adapted_text(text: TextFiles, *, allow_difference: bool = False) -> tuple[TextFiles, Adapted]:
    """`text` with the template to pack, and what is known of it.

    Raises:
        UserError: the template is broken; or LiteRT-LM would make another prompt of it than transformers, and
            `allow_difference` is false.
    """
    adapted = adapt_template(text.chat_template, text.special_tokens, name=text.template_source)
    if adapted.difference is not None and not allow_difference:
        raise UserError(
            f"{text.template_source}: LiteRT-LM cannot render it as transformers does; in the conversation"
            f" {adapted.difference}; give another with --chat-template, or pack it all the same with"
            " --allow-template-difference"
        )
    # LiteRT-LM writes the start token before every prompt, whatever the template says.
    bos = text.bos if adapted.starts_with_bos else None
    return replace(text, chat_template=adapted.template, bos=bos), adapted


def verdict(adapted: Adapted) -> str:
    """One line: what was done, and what it was tried on."""
    tried = f"equal to transformers in {adapted.conversations - len(adapted.refused)} conversations"
    if adapted.difference is not None:
        return f"DIFFERS from transformers, first in the conversation {adapted.difference.conversation!r}"
    if adapted.verdict == "unchanged":
        return f"unchanged, {tried}"
    tags = f"{len(adapted.changes)} tags" if adapted.changes else "its variables"
    return f"rewritten for LiteRT-LM ({tags}), {tried}"


def explanation(adapted: Adapted) -> Iterator[str]:
    """What a person should know of the rewriting, a line each."""
    for change in adapted.changes[:_SHOWN_CHANGES]:
        yield f"  line {change.line}: {_inline(change.before)} -> {_inline(change.after)}"
    if len(adapted.changes) > _SHOWN_CHANGES:
        yield f"  and {len(adapted.changes) - _SHOWN_CHANGES} more, all in the manifest"
    if adapted.refused:
        yield f"  transformers does not render either: {', '.join(adapted.refused)}"
    if adapted.not_growing:
        yield (
            f"  LiteRT-LM cannot go on from turn to turn in: {', '.join(adapted.not_growing)}, as the text of the next"
            " turn does not begin with that of the last"
        )
    if not adapted.starts_with_bos:
        yield "  its prompts do not begin with the start token, so the bundle names none"


def as_dict(adapted: Adapted, source: str) -> dict[str, Any]:
    """For the manifest."""
    return {
        "source": source,
        "verdict": adapted.verdict,
        "conversations": adapted.conversations,
        "refused": list(adapted.refused),
        "difference": str(adapted.difference) if adapted.difference else None,
        "not_growing": list(adapted.not_growing),
        "prologue": adapted.prologue,
        "changes": [{"line": c.line, "before": c.before, "after": c.after} for c in adapted.changes],
    }


def _inline(tag: str) -> str:
    return " ".join(tag.split())
