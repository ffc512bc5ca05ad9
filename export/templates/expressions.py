"""Rewriting of expressions: what MiniJinja lacks or computes differently, in terms of what it has.

Works on Jinja2's syntax tree, from the leaves up, so a receiver, an argument or a condition is rewritten wherever it
stands.
"""

from __future__ import annotations

from collections.abc import Callable

from jinja2 import nodes

from .build import called, chosen, compared, const, either, none, piped, split, tested
from .methods import method_call, replaced
from .unparse import InexpressibleError

JSON_HELPER = "json_text"
TEXT_HELPER = "python_text"

Rule = Callable[[nodes.Expr], nodes.Expr | None]


def _keywords(node: nodes.Filter) -> dict[str, nodes.Expr]:
    return {str(keyword.key): keyword.value for keyword in node.kwargs}


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
        raise InexpressibleError("tojson(ensure_ascii=true)")
    separators = named.pop("separators", None)
    if isinstance(separators, nodes.Tuple | nodes.List):
        named["comma"], named["colon"] = separators.items
    elif separators is not None:
        raise InexpressibleError("tojson with computed separators")
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
    """Python's strings, maps and undefined values are sequences, and booleans numbers; in MiniJinja they are not, while
    its none can be iterated over."""
    if not isinstance(node, nodes.Test):
        return None
    value = node.node
    if node.name in ("sequence", "iterable"):
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
        InexpressibleError: a rule knows the construct and that MiniJinja has no form for it.
    """
    changed = rewrite_fields(node, rules)
    for rule in rules:
        if (new := rule(node)) is not None:
            node, changed = new, True
    return node, changed


def rewrite_fields(node: nodes.Node, rules: tuple[Rule, ...], exclude: tuple[str, ...] = ()) -> bool:
    """Rewrite the expressions right below `node` in place; whether any changed."""
    changed = False

    def rewritten(value: object) -> object:
        nonlocal changed
        if isinstance(value, list):
            return [rewritten(each) for each in value]
        if not isinstance(value, nodes.Expr):
            # Pairs, keywords and operands hold expressions without being any.
            changed |= isinstance(value, nodes.Helper) and rewrite_fields(value, rules)
            return value
        new, did = rewrite_expression(value, rules)
        changed |= did
        return new

    for name, value in node.iter_fields(exclude=exclude):
        setattr(node, name, rewritten(value))
    return changed
