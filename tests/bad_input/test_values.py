"""Every value that is read from a file, with every kind of wrong value: one line that names file and key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gemma_mtp.runtime.errors import UserError
from tests.bad_input.conftest import read_all
from tests.bad_input.values import JSON_FILES, NO_JSON, Wrong, wrong_values

CASES = list(wrong_values())


def refusal(folders: dict[str, Path], role: str) -> str:
    """The one line with which reading ends."""
    with pytest.raises(UserError) as raised:
        read_all(folders, role)
    line = str(raised.value)
    assert len(line.splitlines()) == 1
    assert len(line) < 600
    return line


def put(path: Path, key: str, value: object) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    *parents, last = key.split(".")
    place = content
    for parent in parents:
        place = place[parent]
    place[last] = value
    path.write_text(json.dumps(content))


def test_good_files_are_read(folders: dict[str, Path]) -> None:
    for role in folders:
        read_all(folders, role)


def test_there_are_hundreds_of_cases() -> None:
    assert len(CASES) + len(JSON_FILES) * len(NO_JSON) > 500


@pytest.mark.parametrize("case", CASES, ids=str)
def test_wrong_value(case: Wrong, folders: dict[str, Path]) -> None:
    if case.file == "chat_template.json":
        (folders["target"] / "chat_template.jinja").unlink()
    put(folders[case.folder] / case.file, case.key, case.value)
    line = refusal(folders, case.folder)
    assert case.file in line
    assert case.named in line


@pytest.mark.parametrize("kind", NO_JSON)
@pytest.mark.parametrize(("role", "name"), JSON_FILES, ids="/".join)
def test_file_that_is_no_json_object(role: str, name: str, kind: str, folders: dict[str, Path]) -> None:
    path = folders[role] / name
    if name == "chat_template.json":
        (folders[role] / "chat_template.jinja").unlink()
    if name == "model.safetensors.index.json":
        (folders[role] / "model.safetensors").unlink()
    path.unlink(missing_ok=True)
    NO_JSON[kind](path)
    assert str(path) in refusal(folders, role)
