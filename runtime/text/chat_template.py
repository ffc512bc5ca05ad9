"""Render a bundle's chat template, as transformers does: sandboxed Jinja with its few extra functions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import UserError

Message = dict[str, Any]


def render_chat(
    template: str, messages: Sequence[Message], start: str, variables: Mapping[str, Any] | None = None
) -> str:
    """The text of `messages` and the beginning of the model's turn; `start` is the text of the start token.

    Raises:
        UserError: the bundle has no template, the template refuses the messages, or it reads none of the name of one
            of `variables`.
    """
    if not template:
        raise UserError("the bundle has no chat template; give the text as the model reads it, with --raw")
    for name in variables or {}:
        if not re.search(rf"\b{re.escape(name)}\b", template):
            raise UserError(f"the bundle's chat template reads no variable {name}; leave it out")
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    try:
        return environment.from_string(template).render(
            messages=list(messages), bos_token=start, add_generation_prompt=True, **(variables or {})
        )
    except jinja2.TemplateError as error:
        raise UserError(f"the bundle's chat template cannot render the messages ({error})") from error


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
