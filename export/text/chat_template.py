"""Where a checkpoint keeps its chat template: transformers has written it to four places over time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runtime.errors import UserError
from ...runtime.fields import is_there, is_unicode, read_utf8, shown
from ..checkpoint.files import Checkpoint

# In the order in which transformers looks (tokenization_utils_base and processing_utils, 5.24); the first that is there
# is the checkpoint's.
_TEMPLATE_FILE = "chat_template.jinja"
_JSON_FILES = ("chat_template.json", "tokenizer_config.json", "processor_config.json")
_OTHER_TEMPLATES = "additional_chat_templates"
_KEY = "chat_template"
_DEFAULT = "default"


@dataclass(frozen=True)
class FoundTemplate:
    """A template's text and the file that it stands in."""

    text: str
    where: str


def find_template(checkpoint: Checkpoint) -> FoundTemplate:
    """The template that transformers' `apply_chat_template` takes.

    Raises:
        UserError: there is none, or several of which none is called "default".
    """
    path = checkpoint.path(_TEMPLATE_FILE)
    if is_there(path):
        return read_template(path)
    for name in _JSON_FILES:
        path = checkpoint.path(name)
        found = checkpoint.fields(name).values.get(_KEY)
        if found is not None:
            return FoundTemplate(_one_of(found, str(path)), str(path))
    others = sorted(file.name for file in checkpoint.path(_OTHER_TEMPLATES).glob("*.jinja"))
    also = f", only {', '.join(others)} in {_OTHER_TEMPLATES}, none of which is the default" if others else ""
    raise UserError(
        f"{checkpoint.folder}: no chat template (looked for {_TEMPLATE_FILE}, and {_KEY} in {', '.join(_JSON_FILES)})"
        f"{also}; copy it from the base model, or give one with --chat-template"
    )


def read_template(path: Path) -> FoundTemplate:
    """The template in the file `path`.

    Raises:
        UserError: it cannot be read, or is empty.
    """
    text = read_utf8(path, "a chat template")
    if not text.strip():
        raise UserError(f"{path}: the chat template is empty; copy it from the base model, or give one")
    return FoundTemplate(text, str(path))


def _one_of(found: Any, where: str) -> str:
    """A text as it is; of named templates, as a list or by name, the one called "default"."""
    if isinstance(found, list) and all(isinstance(entry, dict) and "name" in entry for entry in found):
        found = {str(entry["name"]): entry.get("template") for entry in found}
    if isinstance(found, dict):
        names = ", ".join(sorted(found)) or "none"
        if _DEFAULT not in found:
            raise UserError(
                f'{where}: {_KEY} holds the templates {names}, none of them called "{_DEFAULT}";'
                " put the one to ship into a file and give it with --chat-template"
            )
        found = found[_DEFAULT]
    if not isinstance(found, str) or not found.strip() or not is_unicode(found):
        raise UserError(f"{where}: {_KEY} is {shown(found)}, expected a text with a template")
    return found
