"""What is put before a template: variables that LiteRT-LM leaves out, messages in transformers' form, helper macros.

All of it is MiniJinja source, for LiteRT-LM only, and prints nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .expressions import JSON_HELPER, TEXT_HELPER
from .unparse import string_literal

# Always there in transformers' `apply_chat_template`, none where the caller gave nothing.
_OPTIONAL = ("tools", "documents")

_PYTHON_TEXT = r"""
{%- macro python_text(value, quoted=false) -%}
{%- if value is string and not quoted -%}{{ value }}
{%- elif value is string -%}
{%- set mark = '"' if "'" in value and '"' not in value else "'" -%}
{%- set text = value|replace('\\', '\\\\')|replace('\n', '\\n')|replace('\r', '\\r')|replace('\t', '\\t') -%}
{{ mark ~ (text|replace("'", "\\'") if mark == "'" else text) ~ mark }}
{%- elif value is undefined -%}
{%- elif value == none -%}{{ 'None' }}
{%- elif value is boolean -%}{{ 'True' if value else 'False' }}
{%- elif value is float -%}
{%- set digits = (value|tojson|split('e-')|list) -%}
{{ digits[0] ~ ('' if digits|length == 1 else 'e-0' ~ digits[1] if digits[1]|length == 1 else 'e-' ~ digits[1]) }}
{%- elif value is mapping -%}{{ '{' }}
{%- for key, item in value|items -%}
{{ '' if loop.first else ', ' }}{{ python_text(key, true) }}: {{ python_text(item, true) }}
{%- endfor -%}{{ '}' }}
{%- elif value is iterable -%}{{ '[' }}
{%- for item in value -%}{{ '' if loop.first else ', ' }}{{ python_text(item, true) }}{%- endfor -%}{{ ']' }}
{%- else -%}{{ value }}
{%- endif -%}
{%- endmacro %}
"""

_JSON_TEXT = r"""
{%- macro json_text(value, indent=none, sort_keys=false, comma=none, colon=': ', margin='') -%}
{%- set step = '' if indent == none else indent if indent is string else ' ' * indent -%}
{%- set opened = '' if indent == none else '\n' ~ margin ~ step -%}
{%- set closed = '' if indent == none else '\n' ~ margin -%}
{%- set between = (comma if comma != none else ', ' if indent == none else ',') ~ opened -%}
{%- if value is mapping and value -%}{{ '{' }}
{%- for key, item in (value|items|list|sort(case_sensitive=true) if sort_keys else value|items) -%}
{{ opened if loop.first else between }}{{ key|tojson ~ colon }}
{{- json_text(item, indent, sort_keys, comma, colon, margin ~ step) }}
{%- endfor -%}{{ closed ~ '}' }}
{%- elif value is sequence and value -%}{{ '[' }}
{%- for item in value -%}
{{ opened if loop.first else between }}{{ json_text(item, indent, sort_keys, comma, colon, margin ~ step) }}
{%- endfor -%}{{ closed ~ ']' }}
{%- else -%}{{ value|tojson }}
{%- endif -%}
{%- endmacro %}
"""

_MESSAGES = """
{%- set chat = namespace(messages=[]) -%}
{%- for said in messages -%}
{%- set message = said -%}
{%- if said['channels'] is defined -%}
{%- set message = dict(said, reasoning_content=none, reasoning=none, thinking=none) -%}
{%- endif -%}
{%- set parts = message['content'] if message['content'] is sequence else [] -%}
{%- set texts = parts|selectattr('type', 'eq', 'text')|list -%}
{%- if parts and texts|length == parts|length and (texts|length == 1 or message['role'] in JOINED) -%}
{%- set chat.messages = (chat.messages + [dict(message, content=texts|map(attribute='text')|join)])|list -%}
{%- elif parts and parts[0]['type'] == 'tool_response' -%}
{%- for part in parts -%}
{%- set answer = part['response'] if part['response'] is string else part['response']|tojson -%}
{%- set chat.messages = (chat.messages + [dict(message, name=part['name'], content=answer)])|list -%}
{%- endfor -%}
{%- else -%}
{%- set chat.messages = (chat.messages + [message])|list -%}
{%- endif -%}
{%- endfor -%}
{%- set messages = chat.messages %}
"""


def variables(used: set[str], special_tokens: Mapping[str, str]) -> str:
    """The variables that a template uses and LiteRT-LM does not give: special tokens but for the start token, which it
    puts before the prompt itself, and the optional ones as none."""
    tokens = {name: text for name, text in special_tokens.items() if name in used and name != "bos_token"}
    lines = [f"{{%- set {name} = {string_literal(text)} %}}" for name, text in tokens.items()]
    lines += [f"{{%- set {name} = {name} if {name} is defined else none %}}" for name in _OPTIONAL if name in used]
    return "".join(f"{line}\n" for line in lines)


def messages(joined_roles: Sequence[str]) -> str:
    """LiteRT-LM's messages in transformers' form: a text in one part as a string, an answer to a tool call as a message
    of its own, with JSON where it is not text; an answer of LiteRT-LM's own, which has `channels`,
    without its reasoning; for `joined_roles` several parts of text as one string, too."""
    roles = ", ".join(map(string_literal, joined_roles))
    return _MESSAGES.lstrip("\n").replace("JOINED", f"[{roles}]")


def helpers(template: str) -> str:
    """The macros that a rewritten template calls."""
    texts = {TEXT_HELPER: _PYTHON_TEXT, JSON_HELPER: _JSON_TEXT}
    return "".join(text.lstrip("\n") for name, text in texts.items() if f"{name}(" in template)
