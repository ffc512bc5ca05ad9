"""Templates, tokenizers and prompt files of strangers, damaged."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from gemma_mtp.export.demo import SMALL_PAIR
from gemma_mtp.export.templates.adapt import adapt_template
from gemma_mtp.export.templates.conversations import CONVERSATIONS
from gemma_mtp.runtime.text.chat_template import render_chat
from gemma_mtp.runtime.text.prompts import read_prompts, read_tools
from gemma_mtp.runtime.text.tokenizer import read_tokenizer
from tests.fuzz.conftest import Seeds, refusal
from tests.fuzz.mutations import mutate_bytes, mutate_json

TARGET = SMALL_PAIR / "target"
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi!"}]
TEMPLATE = (TARGET / "chat_template.jinja").read_bytes()
PIECES = (
    b"{% for i in range(99999) %}", b"{% endfor %}", b"{{ 'x' * 10**9 }}", b"{{ messages }}", b"{% macro f() %}",
    b"{{ f() }}", b"{% endmacro %}", b"{{ raise_exception('no') }}", b"{% raw %}", b"{#", b"{{", b"}}", b"{%", b"\xff",
    b"\0", b"\x1b[2J", b"{{ messages[0].content.__class__.__mro__ }}", b"{{ ((((1)))) }}", b"{% include 'chat' %}",
    b"|tojson", b"|join(",
)  # fmt: skip
PROMPTS = [
    {"prompt": "Hi!"},
    {"messages": MESSAGES, "tools": [{"type": "function", "function": {"name": "f"}}], "enable_thinking": True},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi!"}]}], "chat_template_kwargs": {"a": [1]}},
    {"text": "<bos>Hi!"},
]


def _template(seed: int) -> str:
    chance, found = random.Random(seed), TEMPLATE
    for _ in range(chance.choice((0, 1, 1, 3))):
        at = chance.randrange(len(found))
        found = found[:at] + chance.choice(PIECES) + found[at:]
    return (
        mutate_bytes(found, chance).decode("utf-8", "replace")
        if chance.random() < 0.7
        else found.decode(errors="replace")
    )


def test_templates_render_or_are_refused(seeds: Seeds) -> None:
    for seed in seeds(150):
        template = _template(seed)
        refusal(lambda template=template: render_chat(template, MESSAGES, "<bos>"), seed)


def test_templates_are_adapted_or_refused(seeds: Seeds) -> None:
    for seed in seeds(10):
        template = _template(seed)
        refusal(lambda template=template: adapt_template(template, conversations=CONVERSATIONS[:3]), seed)


@pytest.fixture(scope="module")
def tokenizer_json() -> dict:
    return json.loads((TARGET / "tokenizer.json").read_bytes())


def _use(kind: str, content: bytes) -> None:
    tokenizer = read_tokenizer(kind, content, "bundle")
    assert tokenizer.last_token >= -1
    tokenizer.decode(tokenizer.encode("def area(self): \x00 ▁ Grüße 日本語 <bos><end_of_turn>")[:50])


def test_tokenizer_values_are_read_or_refused(seeds: Seeds, tokenizer_json: dict) -> None:
    small = {**tokenizer_json, "model": {**tokenizer_json["model"]}}
    for seed in seeds(80):
        chance = random.Random(seed)
        # Most of a tokenizer is its vocabulary; what surrounds it shall have its share.
        about = {key: value for key, value in small.items() if key != "model"}
        about["model"] = {k: v for k, v in small["model"].items() if k not in ("vocab", "merges")}
        damaged = mutate_json(about, chance)
        if isinstance(damaged, dict) and isinstance(damaged.get("model"), dict):
            damaged["model"] = {**{k: small["model"][k] for k in ("vocab", "merges")}, **damaged["model"]}
        refusal(lambda damaged=damaged: _use("json", json.dumps(damaged).encode()), seed)


def test_tokenizer_bytes_are_read_or_refused(seeds: Seeds) -> None:
    content = (TARGET / "tokenizer.json").read_bytes()
    for seed in seeds(60):
        chance = random.Random(seed)
        kind = chance.choice(("json", "json", "model"))
        refusal(lambda kind=kind, chance=chance: _use(kind, mutate_bytes(content, chance)), seed)


def test_prompt_files_are_read_or_refused(seeds: Seeds, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    for seed in seeds(250):
        chance = random.Random(seed)
        lines = [json.dumps(mutate_json(chance.choice(PROMPTS), chance)) for _ in range(3)]
        content = "\n".join(lines).encode()
        file.write_bytes(mutate_bytes(content, chance) if chance.random() < 0.3 else content)
        refusal(lambda: _ask(file), seed)


def _ask(file: Path) -> None:
    for prompt in read_prompts(file):
        assert isinstance(prompt.asked, str)
        if prompt.text is None:
            template = "{{ messages }}{{ tools }}{{ enable_thinking }}{{ a }}{{ a_ }}"
            render_chat(template, prompt.messages, "", prompt.variables)


def test_tool_files_are_read_or_refused(seeds: Seeds, tmp_path: Path) -> None:
    file = tmp_path / "tools.json"
    for seed in seeds(100):
        chance = random.Random(seed)
        file.write_text(json.dumps(mutate_json(PROMPTS[1]["tools"], chance)), "utf-8")
        refusal(lambda: read_tools(file), seed)
