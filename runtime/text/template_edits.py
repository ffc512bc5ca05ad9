"""What LiteRT-LM does to a template before it compiles it: text substitutions, blind to strings and comments.

Source: `EditTemplateForMinijinja` in LiteRT-LM's runtime/components/prompt_template.cc (0.18). A packed template must
come through these unharmed, and the runtime's engine is only imitated where they are applied.
"""

from __future__ import annotations

import re

_METHODS_TO_TESTS = {"startswith": "startingwith", "endswith": "endingwith"}
_SPLIT_ENDS = {r"\[0\]": "first", r"\[-1\]": "last"}
_METHODS_TO_FILTERS = {"split": "split", "join": "join"}
_STRIPS = {"lstrip": "lstrip", "rstrip": "rstrip", "strip": "trim"}

# What every substitution begins with; text or strings without it pass unharmed.
TRIGGER = re.compile(
    r"\.(?=(?:startswith|endswith|replace|split|join|lstrip|rstrip|strip)\(|items\(\))|\{(?=% (?:end)?generation %\})"
)


def _substitutions() -> list[tuple[re.Pattern[str], str]]:
    pairs = [(rf"\.{name}\((.*?)\)", rf" is {test} \1") for name, test in _METHODS_TO_TESTS.items()]
    pairs.append((r"\.replace\((.*?),(.*?)\)", r" | replace(\1,\2)"))
    pairs += [(rf"\.split\((.*?)\){end}", rf" | split(\1) | {pick}") for end, pick in _SPLIT_ENDS.items()]
    pairs += [(rf"\.{name}\((.*?)\)", rf" | {filter_}(\1)") for name, filter_ in _METHODS_TO_FILTERS.items()]
    for name, filter_ in _STRIPS.items():
        pairs += [(rf"\.{name}\(\)", f" | {filter_}"), (rf"\.{name}\((.*?)\)", rf" | {filter_}(\1)")]
    pairs.append((r"\.items\(\)", " | items"))
    pairs += [(f"{{% {name} %}}", "") for name in ("generation", "endgeneration")]
    return [(re.compile(pattern, re.DOTALL), replacement) for pattern, replacement in pairs]


_SUBSTITUTIONS = _substitutions()


def edited_by_runtime(template: str) -> str:
    """`template` as LiteRT-LM compiles it."""
    for pattern, replacement in _SUBSTITUTIONS:
        template = pattern.sub(replacement, template)
    return template
