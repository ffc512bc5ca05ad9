"""Tokenizer and chat template wherever fine-tunes leave them, and whether they fit the model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tokenizers

from gemma_mtp.export.checkpoint.files import Checkpoint
from gemma_mtp.export.checkpoint.read_config import read_target_config
from gemma_mtp.export.text.files import TextFiles, read_text_files
from gemma_mtp.runtime.errors import UserError
from gemma_mtp.runtime.text.chat_template import render_chat
from tests.conftest import TARGET

TEMPLATE = "{% for m in messages %}<|turn>{{ m['role'] }}\n{{ m['content'] }}<turn|>\n{% endfor %}"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """The small target's folder; its weights are linked."""
    folder = tmp_path / "target"
    folder.mkdir()
    for file in TARGET.iterdir():
        if file.suffix == ".safetensors":
            (folder / file.name).symlink_to(file)
        else:
            shutil.copyfile(file, folder / file.name)
    return folder


def read(folder: Path) -> TextFiles:
    checkpoint = Checkpoint(str(folder))
    return read_text_files(checkpoint, read_target_config(checkpoint.config, "config.json"))


def put_template(folder: Path, name: str, value: object) -> None:
    (folder / "chat_template.jinja").unlink()
    path = folder / name
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, "chat_template": value}))


def test_a_stale_sentencepiece_model_does_not_win(target: Path) -> None:
    (target / "tokenizer.model").write_bytes(b"left over from the base model")
    assert read(target).tokenizer == target / "tokenizer.json"


def test_a_broken_tokenizer_is_named(target: Path) -> None:
    (target / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json: the tokenizer cannot be read"):
        read(target)


def test_tokens_without_an_embedding_are_refused(target: Path) -> None:
    tokenizer = tokenizers.Tokenizer.from_file(str(target / "tokenizer.json"))
    tokenizer.add_special_tokens(["<|new|>"])
    tokenizer.save(str(target / "tokenizer.json"))
    with pytest.raises(UserError, match=r"tokens up to 2048 \('<\|new\|>'\), but the embeddings have 2048 rows"):
        read(target)


@pytest.mark.parametrize("name", ["chat_template.json", "tokenizer_config.json", "processor_config.json"])
def test_template_is_found_where_transformers_has_put_it(target: Path, name: str) -> None:
    put_template(target, name, TEMPLATE)
    found = read(target)
    assert (found.chat_template, Path(found.template_source).name) == (TEMPLATE, name)


def test_of_several_templates_the_default_is_taken(target: Path) -> None:
    named = [{"name": "tool_use", "template": "{{ 1 }}"}, {"name": "default", "template": TEMPLATE}]
    put_template(target, "tokenizer_config.json", named)
    assert read(target).chat_template == TEMPLATE


def test_several_templates_without_a_default_are_named(target: Path) -> None:
    put_template(target, "tokenizer_config.json", [{"name": "tool_use", "template": TEMPLATE}])
    with pytest.raises(
        UserError, match=r'holds the templates tool_use, none of them called "default".*--chat-template'
    ):
        read(target)


def test_missing_template_says_where_it_was_looked_for(target: Path) -> None:
    (target / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match=r"no chat template \(looked for chat_template\.jinja, .*--chat-template"):
        read(target)


@pytest.mark.parametrize("value", [7, "", {"default": None}])
def test_template_that_is_none_is_refused(target: Path, value: object) -> None:
    put_template(target, "tokenizer_config.json", value)
    with pytest.raises(UserError, match="expected a text"):
        read(target)


def test_generation_blocks_render() -> None:
    template = "{% for m in messages %}{% generation %}{{ m['content'][0]['text'] }}{% endgeneration %}{% endfor %}"
    assert render_chat(template, [{"role": "user", "content": "a"}], "<bos>") == "<bos>a"


def test_special_tokens_are_given_to_the_template_by_name(target: Path) -> None:
    assert read(target).special_tokens["bos_token"] == "<bos>"
    (target / "tokenizer_config.json").write_text(json.dumps({"bos_token": {"content": "<s>"}, "pad_token": "<p>"}))
    assert dict(read(target).special_tokens) == {"bos_token": "<s>", "pad_token": "<p>"}
