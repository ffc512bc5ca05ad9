"""JSON files of a checkpoint or an adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...runtime.errors import UserError


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in the file `path`.

    Raises:
        UserError: unreadable, or no JSON object.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, expected a JSON object")
    return content
