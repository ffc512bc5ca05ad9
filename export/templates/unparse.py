"""Jinja2's expression nodes as MiniJinja source."""

from __future__ import annotations

import re
from itertools import pairwise

from jinja2 import nodes

from ...runtime.text.template_edits import TRIGGER

_BINARY = {
    nodes.Add: "+", nodes.Sub: "-", nodes.Mul: "*", nodes.Div: "/", nodes.FloorDiv: "//", nodes.Mod: "%",
    nodes.Pow: "**", nodes.And: "and", nodes.Or: "or",
}  # fmt: skip
_UNARY = {nodes.Not: "not ", nodes.Neg: "-", nodes.Pos: "+"}
_COMPARE = {
    "eq": "==", "ne": "!=", "lt": "<", "lteq": "<=", "gt": ">", "gteq": ">=", "in": "in", "notin": "not in",
}  # fmt: skip
# What stands on its own before `.`, `[` or `|`.
_ATOMS = (nodes.Name, nodes.NSRef, nodes.Getattr, nodes.Getitem, nodes.Call, nodes.List, nodes.Tuple, nodes.Dict)
_ESCAPES = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*\Z")


class InexpressibleError(ValueError):
    """A node for which MiniJinja has no form."""


def string_literal(text: str) -> str:
    """`text` as an expression, in pieces where LiteRT-LM's substitutions would change it."""
    pieces = [_quoted(piece) for piece in _harmless(text)]
    return pieces[0] if len(pieces) == 1 else f"({' ~ '.join(pieces)})"


def _harmless(text: str) -> list[str]:
    """`text` cut one character behind the beginning of everything that LiteRT-LM would substitute."""
    cuts = [0, *(match.end() + 1 for match in TRIGGER.finditer(text)), len(text)]
    return [text[a:b] for a, b in pairwise(cuts)]


def _quoted(text: str) -> str:
    escaped = "".join(_ESCAPES.get(c, c if c.isprintable() else _unicode_escape(c)) for c in text)
    return f"'{escaped}'"


def _unicode_escape(character: str) -> str:
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def unparse(node: nodes.Node) -> str:
    """The source of an expression.

    Raises:
        InexpressibleError: MiniJinja has no such expression.
    """
    if isinstance(node, nodes.Const):
        return _constant(node.value)
    if isinstance(node, nodes.BinExpr):
        return _binary(node)
    if isinstance(node, nodes.UnaryExpr):
        return _UNARY[type(node)] + _operand(node.node)
    method = globals().get(f"_{type(node).__name__.lower()}")
    if method is None:
        raise InexpressibleError(f"no form for {type(node).__name__}")
    return method(node)


def _constant(value: object) -> str:
    if isinstance(value, str):
        return string_literal(value)
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return repr(value)


def _operand(node: nodes.Node) -> str:
    plain = isinstance(node, (*_ATOMS, nodes.Const, nodes.Filter))
    return unparse(node) if plain else f"({unparse(node)})"


def _postfixed(node: nodes.Node) -> str:
    """As the left side of `.`, `[...]`, `(...)`."""
    plain = isinstance(node, _ATOMS) or (isinstance(node, nodes.Const) and isinstance(node.value, str))
    return unparse(node) if plain else f"({unparse(node)})"


def _binary(node: nodes.BinExpr) -> str:
    def side(child: nodes.Node) -> str:
        same = isinstance(node, (nodes.And, nodes.Or, nodes.Add)) and type(child) is type(node) and child is node.left
        truth = isinstance(node, (nodes.And, nodes.Or)) and isinstance(child, (nodes.Compare, nodes.Test, nodes.Not))
        return unparse(child) if same or truth else _operand(child)

    return f"{side(node.left)} {_BINARY[type(node)]} {side(node.right)}"


def _name(node: nodes.Name) -> str:
    return node.name


def _nsref(node: nodes.NSRef) -> str:
    return f"{node.name}.{node.attr}"


def _getattr(node: nodes.Getattr) -> str:
    return f"{_postfixed(node.node)}.{node.attr}"


def _getitem(node: nodes.Getitem) -> str:
    return f"{_postfixed(node.node)}[{unparse(node.arg)}]"


def _slice(node: nodes.Slice) -> str:
    start, stop = (unparse(part) if part else "" for part in (node.start, node.stop))
    return f"{start}:{stop}" + (f":{unparse(node.step)}" if node.step else "")


def _list(node: nodes.List) -> str:
    return f"[{', '.join(map(unparse, node.items))}]"


def _tuple(node: nodes.Tuple) -> str:
    return f"({', '.join(map(unparse, node.items))}{',' if len(node.items) == 1 else ''})"


def _dict(node: nodes.Dict) -> str:
    return "{" + ", ".join(f"{unparse(pair.key)}: {unparse(pair.value)}" for pair in node.items) + "}"


def _concat(node: nodes.Concat) -> str:
    return " ~ ".join(map(_operand, node.nodes))


def _compare(node: nodes.Compare) -> str:
    return _operand(node.expr) + "".join(f" {_COMPARE[part.op]} {_operand(part.expr)}" for part in node.ops)


def _condexpr(node: nodes.CondExpr) -> str:
    def part(child: nodes.Node) -> str:
        return f"({unparse(child)})" if isinstance(child, nodes.CondExpr) else unparse(child)

    otherwise = f" else {part(node.expr2)}" if node.expr2 else ""
    return f"{part(node.expr1)} if {part(node.test)}{otherwise}"


def unconditional(node: nodes.Node) -> str:
    """For places that take no `x if y else z` without brackets."""
    return f"({unparse(node)})" if isinstance(node, nodes.CondExpr) else unparse(node)


def _filter(node: nodes.Filter) -> str:
    before = f"{_operand(node.node)} | " if node.node else ""
    return before + node.name + _arguments(node)


def _test(node: nodes.Test) -> str:
    return f"{_operand(node.node)} is {node.name}{_arguments(node)}"


def _call(node: nodes.Call) -> str:
    return _postfixed(node.node) + (_arguments(node) or "()")


def _arguments(node: nodes.Call | nodes.Filter | nodes.Test) -> str:
    if node.dyn_args is not None or node.dyn_kwargs is not None:
        raise InexpressibleError("no form for * and ** arguments")
    listed = [unparse(each) for each in node.args]
    listed += [f"{each.key}={unconditional(each.value)}" for each in node.kwargs]
    return f"({', '.join(listed)})" if listed else ""
