"""Chat templates as LiteRT-LM renders them: MiniJinja without Python's methods, after edits of its own.

MiniJinja 2.14.0 (Cargo.toml), without loop controls; trim_blocks, lstrip_blocks and keep_trailing_newline on; undefined
values lenient; its own `tojson`, `lstrip` and `rstrip` filters, functions `raise_exception` and `strftime_now`, and
a test `none` that holds for undefined values and not for none (LiteRT-LM,
runtime/components/rust/minijinja_template.rs). Renderings run in a process of their own (`sandbox`), and take a bounded
number of steps there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

import minijinja

from .sandbox import OutOfBoundsError, sandbox_for
from .template_edits import edited_by_runtime
from .template_source import STRINGS, Tag, cut

Message = dict[str, Any]

_STEPS = 20_000_000
_NAME = "chat"
# In the Python package only: minijinja-contrib's, and `urlencode` by a feature that LiteRT-LM does not build with.
_NOT_IN_RUNTIME_FILTERS = ("datetimeformat", "dateformat", "filesizeformat", "pluralize", "random", "striptags",
                           "timeformat", "truncate", "urlencode", "wordcount", "wordwrap")  # fmt: skip
_NOT_IN_RUNTIME_FUNCTIONS = ("cycler", "joiner", "lipsum", "now", "randrange")
_TOJSON = re.compile(r"\|\s*tojson\b(?:\s*\(\s*\))?(?!\s*\()")
_TOJSON_WITH_ARGUMENTS = re.compile(r"\|\s*tojson\s*\((?!\s*\))")
_SELECT_NONE = re.compile(r"""(\b(?:select|reject)(?:attr)?\s*\([^()]*?)(['"])none\2""")
_IS_NONE = re.compile(r"\bis(\s+not)?\s+none\b")


class RefusedError(Exception):
    """A template did not render a conversation; the message is the engine's.

    `deliberate` where the template called `raise_exception`, as far as the engine lets that be told.
    """

    def __init__(self, message: str, *, deliberate: bool = False) -> None:
        super().__init__(message)
        self.deliberate = deliberate


def render(template: str, variables: Mapping[str, Any]) -> str:
    """The text of `template`.

    Stock LiteRT-LM 0.18.1 gives it the variables `messages`, as `messages_as_given` has them; `add_generation_prompt`;
    `tools` where there are any; `bos_token` and `eos_token`, both empty, as it puts the start token before the prompt
    itself; and the app's own.

    Raises:
        RefusedError: the template raised an exception, is not MiniJinja, or took too many steps, too long, or too much
            memory.
    """
    return text_or_refusal(__name__, template, variables)


def text_or_refusal(engine: str, template: str, variables: Mapping[str, Any], **bounds: float) -> str:
    """The text that the engine in the module `engine` makes of `template` in its sandbox.

    Raises:
        RefusedError: it made none.
    """
    try:
        answer = sandbox_for(engine).render(template, dict(variables), **bounds)
    except OutOfBoundsError as error:
        raise RefusedError(str(error)) from error
    if "text" not in answer:
        raise RefusedError(answer["refused"], deliberate=answer.get("deliberate", False))
    return answer["text"]


def answer(template: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """What `render` gives, made in this process: `text`, or `refused` and why.

    Python's values would bring their methods along, so they are written as literals into a template that includes the
    one in question.
    """
    try:
        environment = _environment(template)
        sets = "".join(f"{{% set {name} = {_literal(value)} %}}" for name, value in variables.items())
        return {"text": environment.render_str(f'{sets}{{% include "{_NAME}" %}}')}
    except Exception as error:  # MiniJinja reports its own errors and what the functions below raise.
        return {"refused": _reason(error)}


def messages_as_given(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """`messages` as LiteRT-LM 0.18.1 hands them to a template.

    Every text becomes a list with one part (`NormalizeMessageContent`, runtime/conversation/model_data_processor/
    data_utils.cc). Reasoning stands under the names under which transformers offers it, which LiteRT-LM does not do by
    itself: an app that gives `reasoning_content` alone reaches templates that read that name.
    """
    return [_in_parts(message) for message in messages]


def _in_parts(message: Mapping[str, Any]) -> Message:
    if reasoning := message.get("reasoning_content"):
        message = {"thinking": reasoning, **message}
    content = message.get("content")
    if not isinstance(content, str):
        return dict(message)
    return {**message, "content": [{"type": "text", "text": content}]}


@lru_cache(maxsize=4)
def _environment(template: str) -> minijinja.Environment:
    environment = minijinja.Environment(
        pycompat=False, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, fuel=_STEPS, debug=False
    )
    environment.add_global("raise_exception", _raise)
    environment.add_global("strftime_now", lambda form: datetime.now().strftime(form))
    environment.add_filter("spaced_json", lambda text: json.dumps(json.loads(text), ensure_ascii=False))
    environment.add_filter("tojson_with_arguments", lambda *_, **__: _raise("too many arguments: tojson takes none"))
    environment.add_filter("lstrip", lambda text, characters=None: text.lstrip(characters))
    environment.add_filter("rstrip", lambda text, characters=None: text.rstrip(characters))
    for name in _NOT_IN_RUNTIME_FILTERS:
        environment.remove_filter(name)
    for name in _NOT_IN_RUNTIME_FUNCTIONS:
        environment.remove_global(name)
    environment.add_template(_NAME, _imitated(edited_by_runtime(template)))
    return environment


def _reason(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    causes = [line.removeprefix("caused by: ") for line in lines if line.startswith("caused by: ")]
    return causes[-1] if causes else lines[0]


def _imitated(template: str) -> str:
    """`template` with what the binding cannot be given by name put in place.

    Python functions get none for an undefined value and 1 for 1.0, so LiteRT-LM's `none` test and `tojson` filter are
    written out in MiniJinja's own terms.
    """
    return "".join(_imitated_tag(part) if isinstance(part, Tag) else part.source for part in cut(template))


def _imitated_tag(tag: Tag) -> str:
    def edit(code: str) -> str:
        code = _TOJSON_WITH_ARGUMENTS.sub("|tojson_with_arguments(", code)
        return _IS_NONE.sub(r"is\1 undefined", _TOJSON.sub("|tojson|spaced_json", code))

    if tag.kind == "#":
        return tag.source
    if tag.name in ("break", "continue"):
        raise RefusedError(f"unknown statement {tag.name}")
    source = _SELECT_NONE.sub(r"\1'undefined'", tag.source)
    strings = STRINGS.findall(source)
    pieces = [edit(code) for code in STRINGS.split(source)]
    return "".join(piece + string for piece, string in zip(pieces, [*strings, ""], strict=True))


def _literal(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(key)}: {_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_literal, value))}]"
    return json.dumps(value)


def _raise(message: str) -> NoReturn:
    raise ValueError(message)
