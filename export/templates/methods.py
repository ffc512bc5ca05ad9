"""Python's methods of strings, maps and lists in MiniJinja's filters, tests and conditions.

Each function takes the receiver and the arguments, and returns None where it does not know them. An expression that
comes up twice in the result (`x[k] if k in x else none`) has no side effects in Jinja.
"""

from __future__ import annotations

from collections.abc import Callable

from jinja2 import nodes

from .build import chosen, compared, const, either, item, none, piped, sliced, split, tested
from .unparse import InexpressibleError


def _get(node: nodes.Expr, key: nodes.Expr, default: nodes.Expr | None = None) -> nodes.Expr:
    return chosen(compared(key, "in", node), item(node, key), default or none())


def _split(node: nodes.Expr, separator: nodes.Expr | None = None, most: nodes.Expr | None = None) -> nodes.Expr:
    if separator is None:
        return split(node) if most is None else split(node, none(), most)
    return split(node, separator) if most is None else split(node, separator, most)


def _rsplit(node: nodes.Expr, separator: nodes.Expr, most: nodes.Expr | None = None) -> nodes.Expr | None:
    if most is None:
        return split(node, separator)
    if not (isinstance(most, nodes.Const) and most.value == 1):
        return None
    pieces = split(node, separator)
    pair = nodes.List([piped(sliced(pieces, None, const(-1)), "join", separator), item(pieces, const(-1))])
    return chosen(compared(separator, "in", node), pair, nodes.List([node]))


def _partition(node: nodes.Expr, separator: nodes.Expr) -> nodes.Expr:
    pair = split(node, separator, const(1))
    found = nodes.List([item(pair, const(0)), separator, item(pair, const(1))])
    return chosen(compared(separator, "in", node), found, nodes.List([node, const(""), const("")]))


def _rpartition(node: nodes.Expr, separator: nodes.Expr) -> nodes.Expr:
    pieces = split(node, separator)
    before = piped(sliced(pieces, None, const(-1)), "join", separator)
    found = nodes.List([before, separator, item(pieces, const(-1))])
    return chosen(compared(separator, "in", node), found, nodes.List([const(""), const(""), node]))


def _stripped(name: str) -> Callable[..., nodes.Expr]:
    def method(node: nodes.Expr, characters: nodes.Expr | None = None) -> nodes.Expr:
        return piped(node, name) if characters is None else piped(node, name, characters)

    return method


def _begins(name: str) -> Callable[..., nodes.Expr]:
    def method(node: nodes.Expr, affix: nodes.Expr) -> nodes.Expr:
        affixes = affix.items if isinstance(affix, nodes.Tuple) and affix.items else [affix]
        return either(*(tested(node, name, each) for each in affixes))

    return method


def _removeprefix(node: nodes.Expr, affix: nodes.Expr) -> nodes.Expr:
    return chosen(tested(node, "startingwith", affix), sliced(node, piped(affix, "length"), None), node)


def _removesuffix(node: nodes.Expr, affix: nodes.Expr) -> nodes.Expr:
    stop = nodes.Sub(piped(node, "length"), piped(affix, "length"))
    return chosen(tested(node, "endingwith", affix), sliced(node, None, stop), node)


def replaced(node: nodes.Expr, old: nodes.Expr, new: nodes.Expr, most: nodes.Expr | None = None) -> nodes.Expr:
    return piped(node, "replace", old, new) if most is None else piped(split(node, old, most), "join", new)


def _find(node: nodes.Expr, part: nodes.Expr) -> nodes.Expr:
    before = piped(item(split(node, part), const(0)), "length")
    return chosen(compared(part, "in", node), before, const(-1))


def _rfind(node: nodes.Expr, part: nodes.Expr) -> nodes.Expr:
    after = nodes.Add(piped(item(split(node, part), const(-1)), "length"), piped(part, "length"))
    return chosen(compared(part, "in", node), nodes.Sub(piped(node, "length"), after), const(-1))


def _count(node: nodes.Expr, part: nodes.Expr) -> nodes.Expr:
    """Of a string or a list, which cannot be told apart before there is a value."""
    in_list = piped(piped(piped(node, "select", const("eq"), part), "list"), "length")
    return chosen(tested(node, "string"), nodes.Sub(piped(split(node, part), "length"), const(1)), in_list)


def _isspace(node: nodes.Expr) -> nodes.Expr:
    return nodes.And(compared(node, "ne", const("")), compared(piped(node, "trim"), "eq", const("")))


def _format(node: nodes.Expr, *arguments: nodes.Expr) -> nodes.Expr | None:
    """`'a{}b{}'.format(x, y)`, with plain fields only."""
    if not (isinstance(node, nodes.Const) and isinstance(node.value, str)):
        return None
    pieces = node.value.split("{}")
    if len(pieces) != len(arguments) + 1 or any("{" in piece or "}" in piece for piece in pieces):
        return None
    joined: list[nodes.Expr] = [const(pieces[0])]
    for argument, piece in zip(arguments, pieces[1:], strict=True):
        joined += [argument, const(piece)]
    return nodes.Concat(joined)


_METHODS: dict[str, Callable[..., nodes.Expr | None]] = {
    "get": _get,
    "items": lambda node: piped(node, "items"),
    "keys": lambda node: piped(node, "list"),
    "values": lambda node: piped(piped(piped(node, "items"), "map", const("last")), "list"),
    "copy": lambda node: node,
    "split": _split,
    "rsplit": _rsplit,
    "partition": _partition,
    "rpartition": _rpartition,
    "splitlines": lambda node: piped(piped(node, "lines"), "list"),
    "strip": _stripped("trim"),
    "lstrip": _stripped("lstrip"),
    "rstrip": _stripped("rstrip"),
    "startswith": _begins("startingwith"),
    "endswith": _begins("endingwith"),
    "removeprefix": _removeprefix,
    "removesuffix": _removesuffix,
    "replace": replaced,
    "find": _find,
    "rfind": _rfind,
    "count": _count,
    "isspace": _isspace,
    "join": lambda node, values: piped(values, "join", node),
    "format": _format,
    "upper": lambda node: piped(node, "upper"),
    "lower": lambda node: piped(node, "lower"),
    "title": lambda node: piped(node, "title"),
    "capitalize": lambda node: piped(node, "capitalize"),
}
_PARAMETERS = {"split": {"sep": 0, "maxsplit": 1}, "rsplit": {"sep": 0, "maxsplit": 1}, "replace": {"count": 2}}


def method_call(node: nodes.Expr) -> nodes.Expr | None:
    """A method of Python's strings, maps and lists, as filters, tests and conditions."""
    if not isinstance(node, nodes.Call) or not isinstance(node.node, nodes.Getattr):
        return None
    name = node.node.attr
    if name not in _METHODS or node.dyn_args is not None or node.dyn_kwargs is not None:
        return None
    arguments: list[nodes.Expr | None] = list(node.args)
    for keyword in node.kwargs:
        position = _PARAMETERS.get(name, {}).get(keyword.key)
        if position is None:
            return None
        arguments += [None] * (position + 1 - len(arguments))
        arguments[position] = keyword.value
    try:
        return _METHODS[name](node.node.node, *arguments)
    except TypeError as error:
        raise InexpressibleError(f"{name}() with {len(arguments)} arguments") from error
