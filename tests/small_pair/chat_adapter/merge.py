"""The chat adapter merged into the small target by PEFT, as a checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from peft import PeftModel
from transformers import Gemma4ForConditionalGeneration

from ..__main__ import write_google_form
from .train import FOLDER, TARGET


def merged_checkpoint(folder: Path) -> Path:
    """Write the merged target, float32, with the adapter's template and stop tokens, as `folder`."""
    target = Gemma4ForConditionalGeneration.from_pretrained(TARGET, dtype=torch.float32)
    PeftModel.from_pretrained(target, str(FOLDER)).merge_and_unload().save_pretrained(folder)
    write_google_form(folder / "config.json")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TARGET / name, folder / name)
    for name in ("chat_template.jinja", "generation_config.json"):
        shutil.copyfile(FOLDER / name, folder / name)
    return folder
