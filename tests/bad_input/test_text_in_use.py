"""Tokenizers and templates that can be read and not used are found before anything is traced."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gemma_mtp.export.bundle.template import adapted_text
from gemma_mtp.export.checkpoint.pair import open_pair
from gemma_mtp.export.text.files import read_text_files
from gemma_mtp.runtime.errors import UserError


def _without_tokens(tokenizer: dict[str, Any]) -> None:
    """Nothing is left but what was added: most text becomes no token."""
    tokenizer["model"]["vocab"] = {"<unk>": 0}
    tokenizer["model"]["merges"] = []


def _unknown_lost(tokenizer: dict[str, Any]) -> None:
    tokenizer["model"] = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "<nowhere>"}


def _merge_of_nothing(tokenizer: dict[str, Any]) -> None:
    tokenizer["model"]["merges"] = [["no", "where"]]


def _other_kind(tokenizer: dict[str, Any]) -> None:
    tokenizer["model"]["type"] = "Nothing"


def _decoder_of_nothing(tokenizer: dict[str, Any]) -> None:
    tokenizer["decoder"] = {"type": "Replace", "pattern": {"Regex": "."}, "content": ""}


def _id_of_another_row(tokenizer: dict[str, Any]) -> None:
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary[next(iter(vocabulary))] = 10**6


def _text_as_id(tokenizer: dict[str, Any]) -> None:
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary[next(iter(vocabulary))] = "x"


@pytest.mark.parametrize(
    "spoil",
    [_without_tokens, _unknown_lost, _merge_of_nothing, _other_kind, _decoder_of_nothing, _id_of_another_row,
     _text_as_id],
)  # fmt: skip
def test_tokenizer(spoil: Callable[[dict[str, Any]], None], folders: dict[str, Path]) -> None:
    path = folders["target"] / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    spoil(tokenizer)
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(UserError) as refused:
        read_text(folders)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    "template",
    [
        "{% if %}", "{{ messages", "{% for m in messages %}", "{% endfor %}", "{% unknown %}",
        "{{ messages | nothing }}",
        "{{ 1 / 0 }}", "{{ messages.nothing.nothing }}", "{# no end", "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
        "{% raw %}", "{{ raise_exception('no') }}", "{{ messages[0].content.nothing() }}", "{{ 'a' is nothing }}",
    ],
    ids=lambda template: template[:30],
)  # fmt: skip
def test_template(template: str, folders: dict[str, Path]) -> None:
    path = folders["target"] / "chat_template.jinja"
    path.write_text(template)
    with pytest.raises(UserError) as refused:
        adapted_text(read_text(folders))
    assert str(path) in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def read_text(folders: dict[str, Path]):
    pair = open_pair(str(folders["target"]), str(folders["drafter"]))
    return read_text_files(pair.target, pair.target_config)
