# ruff: noqa: E501
"""Expressions and statements that MiniJinja lacks or reads differently, one by one, on both engines."""

from __future__ import annotations

from typing import Any

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_mtp.export.templates import build, expressions, prologue
from gemma_mtp.export.templates.conversations import Conversation
from gemma_mtp.export.templates.engines import RefusedError, TransformersEngine
from gemma_mtp.export.templates.rewrite import rewrite
from gemma_mtp.export.templates.unparse import unparse
from gemma_mtp.runtime.text.litertlm_template import render as render_as_runtime
from gemma_mtp.runtime.text.template_edits import edited_by_runtime
from gemma_mtp.runtime.text.template_source import cut

DATA: dict[str, Any] = {
    "m": {"a": 1, "b": {"c": "x"}, "items": 3, "n": None},
    "s": "  ab,c,,d \n",
    "t": "a<|x|>b<|x|>c",
    "l": [3, 1, 2],
    "w": ["b", "a"],
    "d": {"k": [1, None, True, "it's", 'q"', "é\n<&>"], "e": {}, "l": [], "f": 1.0},
    "rows": [{"role": "user", "y": None}, {"role": "tool", "y": 1}],
    "n": None, "i": 7, "f": 1.5, "small": 1e-7, "large": 1e16, "yes": True, "empty": "",
}  # fmt: skip


def transformers_text(template: str, data: dict[str, Any] = DATA) -> str:
    return TransformersEngine().render(template, Conversation("", [], add_generation_prompt=False, variables=data))


def runtime_text(template: str, data: dict[str, Any] = DATA) -> str:
    return render_as_runtime(template, {"messages": [], "add_generation_prompt": False, **data})


def runtime_text_or_none(template: str) -> str | None:
    try:
        return runtime_text(template)
    except RefusedError:
        return None


def rewritten_text(template: str, data: dict[str, Any] = DATA, *, values: bool = False) -> str:
    rewritten = rewrite(template, values=values).template
    return runtime_text(prologue.helpers(rewritten) + rewritten, data)


# Fail on the runtime, or print something else, until they are rewritten.
LACKING = {
    "get": "{{ m.get('a') }}|{{ m.get('zz', 5) }}|{{ 'none' if m.get('zz') is none }}",
    "get of none": "{{ 'x' if m.get('n') is none }}|{{ m.get('n') or 'y' }}",
    "get chained": "{{ m.get('b', {}).get('c') }}|{{ m.get('q', {}).get('c', 'no') }}",
    "get in a condition": "{% if m.get('a') == 1 and not m.get('q') %}y{% elif m.get('b') %}z{% endif %}",
    "get in an elif": "{% if empty %}y{% elif m.get('b') %}z{% endif %}",
    "get in a loop": "{% for x in m.get('zz') or [] %}{{ x }}{% else %}empty{% endfor %}",
    "get alone in a loop": "{% for x in m.get('b') %}{{ x }}{% endfor %}",
    "get in a loop's filter": "{% for x in rows if x.get('y') %}{{ x['role'] }}{% endfor %}",
    "get in a set": "{% set q = m.get('b') %}{{ q.c }}{% set ns = namespace(q=m.get('zz') or 2) %}{{ ns.q }}",
    "get in a with": "{% with q = m.get('a') %}{{ q }}{% endwith %}",
    "get in a macro's default": "{% macro f(x=m.get('a')) %}{{ x }}{% endmacro %}{{ f() }}{{ f(3) }}",
    "get in arguments": "{% macro f(a, b=1) %}{{ a ~ b }}{% endmacro %}{{ f(m.get('a'), b=m.get('zz', 'q')) }}",
    "get in a filter's argument": "{{ empty | default(m.get('a'), true) }}|{{ w | join(m.get('zz', '-')) }}",
    "get in literals": "{{ {'a': m.get('a')}.a }}{{ [m.get('a')][0] }}{{ (m.get('a'), 2)[1] }}",
    "get in a conditional": "{{ m.get('a') if m.get('zz') else m.get('b').get('c') }}",
    "get as an index": "{{ l[m.get('a')] }}{{ l[m.get('a'):] | length }}",
    "get of a literal": "{{ {'assistant': 'model'}.get('assistant', 'q') }}{{ {'a': 'b'}.get(t, t) }}",
    "keys": "{% for k in m.keys() %}{{ k }}{% endfor %}{{ m.keys() | list | length }}",
    "values": "{% for v in d.values() %}{{ v | tojson }}{% endfor %}",
    "items twice": "{% for k, v in m.get('b').items() %}{{ k ~ v }}{% endfor %}",
    "chained strips": "{{ s.strip().upper() }}|{{ (s.strip() ~ t).strip().lower() }}",
    "split": "{{ s.split(',') | length }}|{{ s.split(',', 1)[1] }}|{{ s.split(sep=',', maxsplit=1) | length }}",
    "split and strip": "{{ s.split(',')[-1].strip() }}|{{ t.split('<|x|>')[0].strip().split('a')[-1] }}",
    "split at brackets": "{{ '(a)b'.split(')')[0] }}|{{ t.split('<|' ~ 'x|>')[1:] | join('()') }}",
    "rsplit": "{{ t.rsplit('<|x|>', 1)[0] }}|{{ t.rsplit('<|x|>', 1)[-1] }}|{{ t.rsplit('q', 1)[-1] }}",
    "partition": "{{ t.partition('<|x|>')[2] }}|{{ t.rpartition('<|x|>')[0] }}|{{ t.partition('q')[0] }}",
    "startswith": "{{ 'y' if t.startswith(('q', 'a')) and not s.startswith('a') }}",
    "startswith in not": "{{ 'y' if not (t ~ s).startswith(('b<', 'c')) else 'n' }}",
    "case": "{{ t.upper() }}|{{ 'A'.lower() }}|{{ \"ab it's\".title() }}|{{ 'ABC'.capitalize() }}",
    "replace": "{{ t.replace('<|x|>', ') ', 1) }}|{{ t | replace('<|x|>', '-', 1) }}",
    "join": "{{ ', '.join(w | sort) }}|{{ ', '.join(w).upper() }}",
    "affixes": "{{ t.removeprefix('a<') }}|{{ t.removesuffix('c') }}|{{ t.removesuffix('zz') }}",
    "splitlines": "{{ 'a\\nb\\n'.splitlines() | join('+') }}",
    "isspace": "{{ 'y' if ' '.isspace() }}{{ 'y' if not ''.isspace() }}{{ 'y' if not 'a'.isspace() }}",
    "format": "{{ '{} and {}'.format('a', i) }}|{{ '%s is %d' % ('x', i) }}|{{ '%s!' % t }}|{{ '%.2f' % f }}",
    "none": "{{ 'a' if n is none }}{{ 'b' if m.zz is none else 'c' }}{{ 'd' if n is not none else 'e' }}",
    "none in select": "{{ rows | selectattr('y', 'none') | map(attribute='role') | join }}",
    "default of none": "{{ 'a' if (zz | default(none)) is none }}{{ empty | default('x', boolean=true) }}",
    "a sum of lists": "{{ 'y' if (l + [4]) is sequence }}{{ (l + [4]) | length }}",
    "a plus sign": "{{ +i }}",
    "words": "{{ 'a b  c' | wordcount }}",
    "JSON, indented": "{{ d | tojson(indent=2) }}",
    "JSON, indented by tabs and sorted": "{{ {'b': 1, 'A': [2, {'z': 1, 'B': 2}]} | tojson(sort_keys=True, indent='\\t') }}",
    "JSON with separators": "{{ d | tojson(separators=(',', ':')) }}",
    "JSON as it is": "{{ d | tojson(ensure_ascii=False) }}",
    "break": "{% for x in l %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "continue": "{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}",
    "continue within two conditions": (
        "{% for x in l %}{% if x == 3 %}{% if yes %}{% continue %}q{% endif %}x{% else %}y{% endif %}{{ x }}{% endfor %}"
    ),
    "break within two loops": (
        "{% for x in l %}{% for y in w %}{% if y == 'a' %}{% break %}{% endif %}{{ y }}{% endfor %}"
        "{% if x == 1 %}{% break %}{% else %}{{ x }}{% endif %}-{% else %}none{% endfor %}"
    ),
    "continue between white space": (
        "{%- for x in l -%}  a\n  {%- if x == 1 -%}  {%- continue -%}  {%- endif -%}  {{ x }}  {%- endfor -%}  b"
    ),
    "break on lines": "{% for x in l %}\n  {% if x == 1 %}\n    {% break %}\n  {% endif %}\n  {{ x }}\n{% endfor %}\nz",
    "generation": "{% generation %}\n{{ t }}\n{% endgeneration %}\nz",
    "generation between white space": "a {%- generation -%} x {%- endgeneration -%} y",
    "text that the runtime edits": "text .strip() and a.split('x')[0] .items() here {{ i }}",
    "a string that the runtime edits": "{{ 'say .strip() and .split(x)[0]' }}{% if '.join(' in t %}{% endif %}",
    "raw text that the runtime edits": "{% raw %}{{ x.strip() }}{% endraw %}",
    "foreign escapes": r"{{ '\d\.' }}{{ 'a\vb' }}",
    "line ends": "a\r\n{% if yes %}\r\nb\r\n{% endif %}\r\nc",
    "the last newline": "{{ i }}\n",
    "a filter block": "{% filter upper %}{{ s.strip().lower() }}{% endfilter %}",
    "a set block": "{% set q | replace('A'.lower(), 'b') %} {{ t.upper() }} {% endset %}[{{ q }}]",
    "a call block": "{% macro w(t) %}<{{ caller(t.upper()) }}>{% endmacro %}{% call(x) w('a') %}{{ x }}{% endcall %}",
}  # fmt: skip
# The same, for values that are not text where text is made.
LACKING_IN_VALUES = {
    "scalars": "{{ n }}|{{ yes }}|{{ f }}|{{ small }}|{{ large }}|{{ 3.0 }}|{{ 0.1 + 0.2 }}|{{ none }}",
    "lists and maps": "{{ l }}|{{ d }}|{{ [] }}|{{ {} }}|{{ [[1]] }}",
    "joined": "{{ 'x' ~ n ~ yes ~ l }}|{{ yes | string }}|{{ zz | string }}|{{ n | string }}",
    "filters of text": "{{ l | upper }}|{{ n | trim }}|{{ yes | upper }}|{{ ['a'] | replace('a', 'b') }}",
    "get": "{{ m.get('zz') }}",
    "sequences": (
        "{{ 'y' if m is sequence else 'n' }}{{ 'y' if t is sequence else 'n' }}{{ 'y' if n is sequence else 'n' }}"
        "{{ 'y' if zz is sequence else 'n' }}{{ 'y' if l is sequence else 'n' }}{{ 'y' if i is sequence else 'n' }}"
    ),
    "iterables": (
        "{{ 'y' if n is iterable else 'n' }}{{ 'y' if t is iterable else 'n' }}{{ 'y' if zz is iterable else 'n' }}"
        "{{ 'y' if l is iterable and l is not mapping else 'n' }}{{ 'y' if i is iterable else 'n' }}"
    ),
    "numbers": "{{ 'y' if yes is number else 'n' }}{{ 'y' if f is number else 'n' }}{{ 'y' if t is number else 'n' }}",
    "length of nothing": "{{ zz | length }}|{{ m.zz | length }}",
    "comparisons": "{{ 'a' in m }}|{{ 1 < 2 < 3 }}|{{ m.zz is defined }}|{{ t is string }}",
    "counts": "{{ t.find('b') }}|{{ t.find('q') }}|{{ t.rfind('<|x|>') }}|{{ t.count('<|x|>') }}|{{ l.count(3) }}",
}
# Equal without any rewriting, so the rewriting must leave them alone.
SHARED = {
    "slices": "{% for x in l[::-1] %}{{ x }}{% endfor %}{{ t[::-1] }}{{ l[-1] }}{{ t[-3:] }}{{ 'é😀'[1] }}",
    "strings side by side": "{{ 'a' 'b' }}{{ \"it's\" }}",
    "JSON": "{{ d | tojson }}",
    "scopes": "{% set x = 1 %}{% for y in l %}{% set x = y %}{{ x }}{% endfor %}{{ x }}{% if yes %}{% set x = 5 %}{% endif %}{{ x }}",
    "namespaces": "{% set ns = namespace(a=0) %}{% for y in l %}{% set ns.a = ns.a + y %}{% endfor %}{{ ns.a }}",
    "sorted maps": "{% for k, v in {'b': 1, 'A': 2, 'a': 3} | dictsort %}{{ k }}{% endfor %}",
    "loops": "{% for x in l %}{{ loop.index0 }}{{ loop.revindex }}{{ loop.cycle('a', 'b') }}{{ loop.nextitem }}{% endfor %}",
    "select": "{{ rows | selectattr('role', 'equalto', 'user') | map(attribute='role') | first }}",
    "white space": "  {%+ if yes %} x{% endif +%}\ny {#- c -#} z\n  {% if yes %}\n q\n  {% endif %}\n",
    "raw": "{% raw %}{{ x }}{% endraw %}{{ '{{' }}",
    "arithmetic": "{{ i // 2 }}|{{ i / 2 }}|{{ i % 4 }}|{{ -i // 2 }}|{{ 2 ** 3 }}",
}  # fmt: skip


@pytest.mark.parametrize("template", LACKING.values(), ids=LACKING.keys())
def test_rewritten_as_transformers(template: str) -> None:
    expected = transformers_text(template)
    assert runtime_text_or_none(template) != expected
    assert rewritten_text(template) == expected


@pytest.mark.parametrize("template", LACKING_IN_VALUES.values(), ids=LACKING_IN_VALUES.keys())
def test_values_written_as_transformers_does(template: str) -> None:
    expected = transformers_text(template)
    assert runtime_text_or_none(template) != expected
    assert rewritten_text(template, values=True) == expected


@pytest.mark.parametrize("template", SHARED.values(), ids=SHARED.keys())
def test_what_both_engines_read_alike_stays(template: str) -> None:
    assert runtime_text(template) == transformers_text(template)
    assert rewrite(template).template == template
    assert rewrite(template).changes == ()


@pytest.mark.parametrize("template", [*LACKING.values(), *LACKING_IN_VALUES.values(), *SHARED.values()])
def test_rewriting_for_values_keeps_the_text(template: str) -> None:
    assert rewritten_text(template, values=True) == transformers_text(template)


@pytest.mark.parametrize("template", [*LACKING.values(), *SHARED.values()])
def test_rewriting_twice_changes_nothing_more(template: str) -> None:
    once = rewrite(template).template
    assert rewrite(once).template == once


@pytest.mark.parametrize("template", [*LACKING.values(), *SHARED.values()])
def test_runtime_edits_pass_a_rewritten_template_by(template: str) -> None:
    once = rewrite(template).template
    assert edited_by_runtime(once) == once


def test_changes_name_lines() -> None:
    changes = rewrite("a\n{{ i }}\n{{ s.strip() }}\n\n{%- if\n m.get('a') %}{{ t.upper() }}{% endif %}").changes
    assert [(change.line, change.before, change.after) for change in changes] == [
        (3, "{{ s.strip() }}", "{{ s | trim }}"),
        (5, "{%- if\n m.get('a') %}", "{%- if (m['a'] if 'a' in m else none) %}"),
        (6, "{{ t.upper() }}", "{{ t | upper }}"),
    ]


def test_what_has_no_form_is_named_and_stays() -> None:
    rewritten = rewrite("{{ i }}\n{{ d | tojson(ensure_ascii=True) }}")
    assert rewritten.template == "{{ i }}\n{{ d | tojson(ensure_ascii=True) }}"
    assert rewritten.left == ("line 2: tojson(ensure_ascii=true)",)


def test_a_wrong_rule_shows() -> None:
    def wrong_get(node: jinja2.nodes.Expr) -> jinja2.nodes.Expr | None:
        call = isinstance(node, jinja2.nodes.Call) and isinstance(node.node, jinja2.nodes.Getattr)
        return build.item(node.node.node, node.args[0]) if call and node.node.attr == "get" else None

    parsed = jinja2.Environment().parse("{{ m.get('zz', 5) }}").body[0].nodes[0]  # pyright: ignore[reportAttributeAccessIssue]
    new, changed = expressions.rewrite_expression(parsed, (wrong_get,))
    assert changed
    assert runtime_text(f"{{{{ {unparse(new)} }}}}") != transformers_text("{{ m.get('zz', 5) }}")


TEXTS = st.text(alphabet="ab ,\n\t'\"\\{}%é🙂.()", max_size=12)


@settings(deadline=None)
@given(text=TEXTS, separator=st.sampled_from([",", "a", "ab", "\n", " "]))
def test_string_methods_on_any_text(text: str, separator: str) -> None:
    template = (
        "{{ x.strip() }}|{{ x.split(y) | join('+') }}|{{ x.split(y, 1)[-1] }}|{{ x.split() | join('+') }}|"
        "{{ x.rsplit(y, 1)[0] }}|{{ x.partition(y)[2] }}|{{ x.replace(y, '-', 1) }}|{{ x.lstrip(y) }}|{{ x.rstrip(y) }}|"
        "{{ x.find(y) }}|{{ x.rfind(y) }}|{{ x.count(y) }}|{{ x.removeprefix(y) }}|{{ x.removesuffix(y) }}"
    )
    data = {"x": text, "y": separator}
    assert rewritten_text(template, data) == transformers_text(template, data)


@settings(deadline=None)
@given(text=TEXTS)
def test_any_string_literal(text: str) -> None:
    quoted = text.replace("\\", "\\\\").replace("'", "\\'")
    template = f"{{{{ '{quoted}.strip()'.upper() }}}}"
    assert rewritten_text(template) == transformers_text(template) == f"{text}.strip()".upper()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats(1e-3, 1e6) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(value=JSON)
def test_json_of_any_value(value: object) -> None:
    template = "{{ x | tojson }}{{ x | tojson(indent=3) }}{{ x | tojson(separators=(',', ':'), sort_keys=True) }}"
    assert rewritten_text(template, {"x": value}) == transformers_text(template, {"x": value})


@settings(deadline=None)
@given(value=JSON)
def test_any_value_as_python_text(value: object) -> None:
    assert rewritten_text("{{ x }}", {"x": value}, values=True) == transformers_text("{{ x }}", {"x": value})


@settings(deadline=None)
@given(st.lists(st.sampled_from(["{{ x }}", "{%- if y -%}", "{# c #}", " a\n", "{% raw %}{{{% endraw %}", "}}", "%"])))
def test_cutting_loses_nothing(pieces: list[str]) -> None:
    source = "".join(pieces)
    assert "".join(part.source for part in cut(source)) == source
