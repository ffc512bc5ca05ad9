"""Checkpoints of strangers, damaged: configurations, generation settings, tokenizer settings, safetensors headers."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from gemma_mtp.export.checkpoint.pair import open_pair
from gemma_mtp.export.demo import SMALL_PAIR
from gemma_mtp.export.options import resolve_options
from gemma_mtp.export.text.files import read_text_files
from tests.fuzz.conftest import Seeds, refusal
from tests.fuzz.mutations import NUMBERS, mutate_bytes, mutate_json

pytestmark = pytest.mark.slow
WEIGHTS = "model.safetensors"


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A folder with `target` and `drafter`, whose weights are links."""
    for name in ("target", "drafter"):
        (tmp_path / name).mkdir()
        for file in (SMALL_PAIR / name).iterdir():
            if file.name == WEIGHTS:
                (tmp_path / name / WEIGHTS).symlink_to(file)
            else:
                shutil.copyfile(file, tmp_path / name / file.name)
    return tmp_path


def _open(folder: Path) -> None:
    pair = open_pair(str(folder / "target"), str(folder / "drafter"), [])
    options = resolve_options(
        pair.target_config, context_length=256, prefill_lengths=(32,), verify_lengths=(), weights="fp32"
    )
    assert options.context_length == 256
    read_text_files(pair.target, pair.target_config)


@pytest.mark.parametrize(
    "name",
    ["target/config.json", "drafter/config.json", "target/generation_config.json", "target/tokenizer_config.json"],
)
def test_settings_are_read_or_refused(seeds: Seeds, pair: Path, name: str) -> None:
    original = json.loads((SMALL_PAIR / name).read_text("utf-8"))
    for seed in seeds(60):
        (pair / name).write_text(json.dumps(mutate_json(original, random.Random(seed))), "utf-8")
        refusal(lambda: _open(pair), f"{seed} of {name}")


def test_weight_files_are_read_or_refused(seeds: Seeds, pair: Path) -> None:
    original = (SMALL_PAIR / "drafter" / WEIGHTS).read_bytes()
    header_bytes = int.from_bytes(original[:8], "little")
    header = json.loads(original[8 : 8 + header_bytes])
    file = pair / "drafter" / WEIGHTS
    file.unlink()
    for seed in seeds(60):
        chance = random.Random(seed)
        if chance.random() < 0.5:
            about = json.dumps(mutate_json(header, chance)).encode()
            content = len(about).to_bytes(8, "little") + about + original[8 + header_bytes :]
        elif chance.random() < 0.3:
            content = chance.choice(NUMBERS).to_bytes(8, "little") + original[8:]
        else:
            content = mutate_bytes(original, chance, 0, 8 + header_bytes)
        file.write_bytes(content)
        refusal(lambda: _open(pair), seed)
