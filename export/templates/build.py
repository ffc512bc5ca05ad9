"""Short names for building nodes of Jinja2's syntax tree."""

from __future__ import annotations

from jinja2 import nodes


def none() -> nodes.Const:
    return nodes.Const(None)


def const(value: object) -> nodes.Const:
    return nodes.Const(value)


def piped(node: nodes.Expr, name: str, *arguments: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(arguments), [], None, None)


def tested(node: nodes.Expr, name: str, *arguments: nodes.Expr) -> nodes.Test:
    return nodes.Test(node, name, list(arguments), [], None, None)


def compared(left: nodes.Expr, operator: str, right: nodes.Expr) -> nodes.Compare:
    return nodes.Compare(left, [nodes.Operand(operator, right)])


def chosen(test: nodes.Expr, yes: nodes.Expr, no: nodes.Expr) -> nodes.CondExpr:
    return nodes.CondExpr(test, yes, no)


def item(node: nodes.Expr, key: nodes.Expr) -> nodes.Getitem:
    return nodes.Getitem(node, key, "load")


def sliced(node: nodes.Expr, start: nodes.Expr | None, stop: nodes.Expr | None) -> nodes.Getitem:
    return item(node, nodes.Slice(start, stop, None))


def called(name: str, *arguments: nodes.Expr, **named: nodes.Expr) -> nodes.Call:
    keywords = [nodes.Keyword(key, value) for key, value in named.items()]
    return nodes.Call(nodes.Name(name, "load"), list(arguments), keywords, None, None)


def split(node: nodes.Expr, *arguments: nodes.Expr) -> nodes.Filter:
    """MiniJinja's `split` gives an iterator, without a length."""
    return piped(piped(node, "split", *arguments), "list")


def either(*alternatives: nodes.Expr) -> nodes.Expr:
    joined = alternatives[0]
    for other in alternatives[1:]:
        joined = nodes.Or(joined, other)
    return joined
