"""The rewriting of a whole template: every tag's expressions and statements, and the text that LiteRT-LM would change.

Text, white space and everything that needs no change stay as they are, character for character.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import jinja2
import jinja2.ext
from jinja2 import nodes

from ...runtime.text.template_edits import TRIGGER
from ...runtime.text.template_source import STRINGS, Tag, Text, cut
from .expressions import FORM_RULES, VALUE_RULES, Rule, printed, rewrite_expression, rewrite_fields
from .statements import without_generation, without_loop_controls
from .unparse import InexpressibleError, string_literal, unconditional, unparse

_PARSER = jinja2.Environment()
# Escapes of Python's strings that MiniJinja refuses.
_FOREIGN_ESCAPE = re.compile(r"\\[^nrtbf\\\"'/ux0-7]")
_CLOSINGS = {"if": "endif", "for": "endfor", "macro": "endmacro", "call": "endcall", "filter": "endfilter",
             "with": "endwith"}  # fmt: skip


@dataclass(frozen=True)
class Change:
    """What became of one tag or piece of text; `line` counts from 1 in the original."""

    line: int
    before: str
    after: str


@dataclass(frozen=True)
class Rewritten:
    """A template for LiteRT-LM's engine. `left` names what MiniJinja has no form for and so stayed as it was."""

    template: str
    changes: tuple[Change, ...]
    left: tuple[str, ...]


def rewrite(template: str, *, values: bool = False) -> Rewritten:
    """`template` in what LiteRT-LM's MiniJinja has.

    With `values`, also what prints values other than strings as Python does, and the finer differences between types.
    Helper macros that the result calls are the caller's to put before it (`prologue`).

    Raises:
        ValueError: a tag does not end.
        jinja2.TemplateSyntaxError: a tag is not Jinja.
    """
    read = _as_jinja2_reads(template)
    parts = cut(read)
    parts, generation = without_generation(parts)
    parts, controls = without_loop_controls(parts)
    changes = [Change(tag.line, tag.source, after) for tag, after in (*generation, *controls)]
    if read != template:
        changes.append(Change(1, "line ends", "as Jinja2 reads them: \\n, and none at the template's end"))
    left: list[str] = []
    out: list[str] = []
    line = 1
    for part in parts:
        try:
            new = _rewritten_text(part) if isinstance(part, Text) else _rewritten_tag(part, values=values)
        except InexpressibleError as error:
            left.append(f"line {line}: {error}")
            new = part.source
        if new != part.source:
            changes.append(Change(part.line if isinstance(part, Tag) else line, part.source, new))
        line = part.line if isinstance(part, Tag) else line
        line += part.source.count("\n")
        out.append(new)
    return Rewritten("".join(out), tuple(sorted(changes, key=lambda change: change.line)), tuple(left))


def _as_jinja2_reads(template: str) -> str:
    """Jinja2 reads every line end as a newline and drops the last; MiniJinja does neither."""
    template = re.sub(r"\r\n?", "\n", template)
    return template.removesuffix("\n") if not template.endswith("}\n") or template.endswith("}}\n") else template


def _rewritten_text(text: Text) -> str:
    """`text` with what LiteRT-LM would substitute cut by an expression, which strips no white space."""
    around = ("{% endraw %}", "{% raw %}") if text.raw else ("", "")
    return TRIGGER.sub(lambda found: f"{around[0]}{{{{ {string_literal(found[0])} }}}}{around[1]}", text.source)


def _rewritten_tag(tag: Tag, *, values: bool) -> str:
    if tag.kind == "#":
        return replace(tag, body="").source if TRIGGER.search(tag.source) else tag.source
    must = any(_FOREIGN_ESCAPE.search(text) or TRIGGER.search(text) for text in STRINGS.findall(tag.body))
    rules = VALUE_RULES if values else FORM_RULES
    if tag.kind == "{":
        body, changed = _expression(tag.body, rules, prints=values)
    else:
        body, changed = _statement(tag, rules)
    return replace(tag, body=f" {body} ").source if changed or must else tag.source


def _expression(body: str, rules: tuple[Rule, ...], *, prints: bool) -> tuple[str, bool]:
    (output,) = _PARSER.parse(f"{{{{ {body} }}}}").body
    assert isinstance(output, nodes.Output)
    node = output.nodes[0]
    if isinstance(node, nodes.TemplateData):
        node = nodes.Const(node.data)
    new, changed = rewrite_expression(node, rules)
    if prints and (text := printed(new)) is not new:
        new, changed = text, True
    return unparse(new), changed


def _statement(tag: Tag, rules: tuple[Rule, ...]) -> tuple[str, bool]:
    name = tag.name
    header = tag.body.strip()
    if name == "elif":
        header = header.removeprefix("el")
    elif name == "set" and not _is_assignment(tag):
        return _block_set(header, rules)
    elif name not in (*_CLOSINGS, "set"):
        return header, False
    closing = _CLOSINGS.get("if" if name == "elif" else name)
    source = f"{{% {header} %}}" + (f"{{% {closing} %}}" if closing else "")
    (node,) = _PARSER.parse(source).body
    changed = rewrite_fields(node, rules, exclude=("body", "else_", "elif_"))
    text = _unparsed(node)
    return (f"el{text}" if name == "elif" else text), changed


def _is_assignment(tag: Tag) -> bool:
    return "=" in STRINGS.sub("", tag.body.split("|", 1)[0])


def _block_set(header: str, rules: tuple[Rule, ...]) -> tuple[str, bool]:
    if "|" not in header:
        return header, False
    (node,) = _PARSER.parse(f"{{% {header} %}}{{% endset %}}").body
    assert isinstance(node, nodes.AssignBlock)
    assert node.filter is not None
    new, changed = rewrite_expression(node.filter, rules)
    return f"set {unparse(node.target)} | {unparse(new)}", changed


def _unparsed(node: nodes.Node) -> str:
    """A statement's tag without its marks, from its node."""
    match node:
        case nodes.If():
            return f"if {unconditional(node.test)}"
        case nodes.For():
            test = f" if {unconditional(node.test)}" if node.test else ""
            recursive = " recursive" if node.recursive else ""
            return f"for {_target(node.target)} in {unconditional(node.iter)}{test}{recursive}"
        case nodes.Assign():
            return f"set {_target(node.target)} = {unparse(node.node)}"
        case nodes.Macro():
            return f"macro {node.name}({_parameters(node)})"
        case nodes.CallBlock():
            parameters = f"({_parameters(node)})" if node.args else ""
            return f"call{parameters} {unparse(node.call)}"
        case nodes.FilterBlock():
            return f"filter {unparse(node.filter)}"
        case nodes.With():
            pairs = zip(node.targets, node.values, strict=True)
            return " ".join(["with", ", ".join(f"{unparse(a)} = {unparse(b)}" for a, b in pairs)]).strip()
    raise InexpressibleError(f"no form for {type(node).__name__}")


def _target(node: nodes.Node) -> str:
    return ", ".join(map(_target, node.items)) if isinstance(node, nodes.Tuple) else unparse(node)


def _parameters(node: nodes.Macro | nodes.CallBlock) -> str:
    plain = len(node.args) - len(node.defaults)
    listed = [each.name for each in node.args[:plain]]
    listed += [f"{each.name}={unparse(value)}" for each, value in zip(node.args[plain:], node.defaults, strict=True)]
    return ", ".join(listed)
