"""Rewriting of expressions: what MiniJinja lacks or computes differently, in terms of what it has.

Works on Jinja2's syntax tree, from the leaves up, so a receiver, an argument or a condition is rewritten wherever it
stands. An expression that a rule repeats (`x[k] if k in x else none`) has no side effects in Jinja.
"""

from __future__ import annotations

from collections.abc import Callable

from jinja2 import nodes

from .unparse import CannotExpress

JSON_HELPER = "json_text"
TEXT_HELPER = "python_text"

Rule = Callable[[nodes.Expr], nodes.Expr | None]


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


# Methods. Each takes the receiver and the arguments and returns None where it does not know them.


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
        raise CannotExpress(f"{name}() with {len(arguments)} arguments") from error


# Filters, tests and operators that exist under the same name and differ.


def _keywords(node: nodes.Filter) -> dict[str, nodes.Expr]:
    return {keyword.key: keyword.value for keyword in node.kwargs}


def _default(node: nodes.Filter) -> nodes.Expr | None:
    """MiniJinja's `default` takes none for no argument, and no named `boolean`."""
    named = _keywords(node)
    value = node.args[0] if node.args else named.get("default_value")
    truth = node.args[1] if len(node.args) > 1 else named.get("boolean")
    if value is None or node.node is None:
        return None
    if isinstance(value, nodes.Const) and value.value is None:
        if truth is None:
            return chosen(tested(node.node, "defined"), node.node, none())
        return nodes.Or(node.node, none()) if isinstance(truth, nodes.Const) and truth.value else None
    return piped(node.node, "default", value, *([truth] if truth else [])) if node.kwargs else None


def length(node: nodes.Expr) -> nodes.Expr | None:
    """The length of an undefined value is 0 in Jinja2."""
    if not isinstance(node, nodes.Filter) or node.name not in ("length", "count"):
        return None
    if not isinstance(node.node, nodes.Name | nodes.Getattr | nodes.Getitem):
        return None
    return piped(piped(node.node, "default", nodes.List([])), node.name)


def _tojson(node: nodes.Filter) -> nodes.Expr | None:
    """LiteRT-LM's `tojson` takes no arguments and writes as Python does without any."""
    named = {key: value for key, value in _keywords(node).items() if not _is_default_json(key, value)}
    if node.args or not node.node:
        return None
    if not named:
        return piped(node.node, "tojson") if node.kwargs else None
    if "ensure_ascii" in named:
        raise CannotExpress("tojson(ensure_ascii=true)")
    separators = named.pop("separators", None)
    if isinstance(separators, nodes.Tuple | nodes.List):
        named["comma"], named["colon"] = separators.items
    elif separators is not None:
        raise CannotExpress("tojson with computed separators")
    return called(JSON_HELPER, node.node, **named)


def _is_default_json(key: str, value: nodes.Expr) -> bool:
    defaults = {"ensure_ascii": False, "indent": None, "separators": None, "sort_keys": False}
    return key in defaults and isinstance(value, nodes.Const) and value.value is defaults[key]


def _select(node: nodes.Filter) -> nodes.Expr | None:
    """LiteRT-LM's test `none` does not hold for none."""
    position = 1 if node.name.endswith("attr") else 0
    name = node.args[position] if len(node.args) > position else None
    if not (isinstance(name, nodes.Const) and name.value == "none") or node.node is None:
        return None
    return piped(node.node, node.name, *node.args[:position], const("eq"), none())


def _replace_filter(node: nodes.Filter) -> nodes.Expr | None:
    if node.node is None or len(node.args) != 3:
        return None
    return replaced(node.node, *node.args)


def _wordcount(node: nodes.Filter) -> nodes.Expr | None:
    return piped(split(node.node), "length") if node.node else None


def _list(node: nodes.Filter) -> nodes.Expr | None:
    """A list that a rule has listed already."""
    return node.node if isinstance(node.node, nodes.Filter) and node.node.name == "list" else None


_FILTERS: dict[str, Callable[[nodes.Filter], nodes.Expr | None]] = {
    "default": _default,
    "d": _default,
    "tojson": _tojson,
    "select": _select,
    "reject": _select,
    "selectattr": _select,
    "rejectattr": _select,
    "replace": _replace_filter,
    "wordcount": _wordcount,
    "list": _list,
}


def filter_call(node: nodes.Expr) -> nodes.Expr | None:
    """A filter that MiniJinja has not, or with other arguments or another result."""
    if not isinstance(node, nodes.Filter) or node.name not in _FILTERS:
        return None
    return _FILTERS[node.name](node)


def none_test(node: nodes.Expr) -> nodes.Expr | None:
    """LiteRT-LM's test `none` does not hold for none."""
    if isinstance(node, nodes.Test) and node.name == "none":
        return compared(node.node, "eq", none())
    return None


def type_test(node: nodes.Expr) -> nodes.Expr | None:
    """Python's strings, maps and undefined values are sequences, and booleans numbers; in MiniJinja they are not."""
    if not isinstance(node, nodes.Test):
        return None
    value = node.node
    if node.name == "sequence":
        return nodes.And(tested(value, "iterable"), compared(value, "ne", none()))
    if node.name == "number":
        return either(tested(value, "number"), tested(value, "boolean"))
    return const(False) if node.name == "callable" else None


def negated_none(node: nodes.Expr) -> nodes.Expr | None:
    if isinstance(node, nodes.Not) and isinstance(node.node, nodes.Compare) and len(node.node.ops) == 1:
        compare = node.node
        operand = compare.ops[0]
        if operand.op == "eq" and isinstance(operand.expr, nodes.Const) and operand.expr.value is None:
            return compared(compare.expr, "ne", none())
    return None


def operator(node: nodes.Expr) -> nodes.Expr | None:
    """`'%s' % x`, a sum of lists (no sequence in MiniJinja until it is listed), a plus sign."""
    if isinstance(node, nodes.Mod):
        text = isinstance(node.left, nodes.Const) and isinstance(node.left.value, str)
        if text or isinstance(node.right, nodes.Tuple):
            values = node.right.items if isinstance(node.right, nodes.Tuple) else [node.right]
            return piped(node.left, "format", *values)
    if isinstance(node, nodes.Add) and any(isinstance(side, nodes.List) for side in (node.left, node.right)):
        return piped(node, "list")
    return node.node if isinstance(node, nodes.Pos) else None


def is_text(node: nodes.Expr) -> bool:
    """Whether an expression can only give a string, which both engines print alike."""
    if isinstance(node, nodes.Const):
        return isinstance(node.value, str)
    if isinstance(node, nodes.Filter):
        return node.name in _TEXT_FILTERS
    if isinstance(node, nodes.Add):
        return is_text(node.left) or is_text(node.right)
    if isinstance(node, nodes.CondExpr):
        return is_text(node.expr1) and (node.expr2 is None or is_text(node.expr2))
    return isinstance(node, nodes.Concat) or (isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name))


# Filters that turn their input into text first, in Jinja2.
_OF_TEXT = frozenset(("trim", "upper", "lower", "title", "capitalize", "replace", "indent", "wordcount"))
_TEXT_FILTERS = frozenset(
    (
        "trim",
        "lstrip",
        "rstrip",
        "upper",
        "lower",
        "title",
        "capitalize",
        "join",
        "replace",
        "tojson",
        "indent",
        "format",
    )
)


def printed(node: nodes.Expr) -> nodes.Expr:
    """`node` as Python writes it: None, True, lists with single quotes, floats with Python's exponents."""
    return node if is_text(node) else called(TEXT_HELPER, node)


def python_text(node: nodes.Expr) -> nodes.Expr | None:
    """Where an expression turns values into text."""
    if isinstance(node, nodes.Concat):
        return nodes.Concat([printed(each) for each in node.nodes])
    if not isinstance(node, nodes.Filter) or node.node is None:
        return None
    if node.name == "string":
        return printed(node.node)
    if node.name in _OF_TEXT and (text := printed(node.node)) is not node.node:
        return nodes.Filter(text, node.name, node.args, node.kwargs, node.dyn_args, node.dyn_kwargs)
    return None


# Without these a template fails or takes a wrong branch on everyday values; the others matter for rarer ones.
FORM_RULES: tuple[Rule, ...] = (method_call, filter_call, none_test, negated_none, operator)
VALUE_RULES: tuple[Rule, ...] = (python_text, *FORM_RULES, type_test, length)


def rewrite_expression(node: nodes.Expr, rules: tuple[Rule, ...]) -> tuple[nodes.Expr, bool]:
    """`node` with every rule applied once, from the leaves up, and whether any did.

    Raises:
        CannotExpress: a rule knows the construct and that MiniJinja has no form for it.
    """
    changed = False
    for name, value in node.iter_fields():
        if isinstance(value, nodes.Node):
            new, did = rewrite_expression(value, rules)  # pyright: ignore[reportArgumentType]
            setattr(node, name, new)
            changed |= did
        elif isinstance(value, list):
            pairs = [
                rewrite_expression(each, rules) if isinstance(each, nodes.Node) else (each, False) for each in value
            ]
            setattr(node, name, [new for new, _ in pairs])
            changed |= any(did for _, did in pairs)
    for rule in rules:
        if (new := rule(node)) is not None:
            node, changed = new, True
    return node, changed
