"""Train the shipped pair from nothing: `python -m tests.small_pair OUT`, two CPU cores, under an hour.

Each stage writes a folder that the next one reads: OUT/target (with the tokenizer), then OUT/drafter.
A finished stage is not run again, so an interrupted training goes on where it stopped.
"""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path

import click
import torch
import transformers

from gemma_mtp.runtime.parity.oracle.reference import load_pair

from . import corpus
from .drafter import own_text, train_drafter
from .optimisers import Schedule
from .report import measure
from .target import train_target
from .tokenizer import train_tokenizer

SEED = 20
TARGET_SCHEDULE = Schedule(peak=8e-3, steps=1000)
DRAFTER_SCHEDULE = Schedule(peak=6e-3, steps=1100)


def _say(line: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')} {line}")


def write_target(folder: Path) -> None:
    """Tokenizer and target, in bfloat16, as `folder`."""
    documents = corpus.training_documents()
    characters = sum(len(document.text) for document in documents)
    _say(f"corpus: {len(documents)} modules of Python {platform.python_version()}, {characters:,} characters")
    tokenizer = train_tokenizer(documents)
    model = train_target(tokenizer, documents, TARGET_SCHEDULE, SEED, _say)
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=2, eos_token_id=[1, 5], pad_token_id=0, do_sample=False
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_google_form(folder / "config.json")


def write_drafter(target_folder: Path, folder: Path) -> None:
    """Drafter of the target in `target_folder`, in bfloat16, as `folder`."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(target_folder)
    target = transformers.Gemma4ForConditionalGeneration.from_pretrained(target_folder, dtype=torch.float32).eval()
    text = own_text(target, tokenizer, corpus.training_documents(), SEED + 1, _say)
    drafter = train_drafter(target, text, DRAFTER_SCHEDULE, SEED + 2, _say)
    drafter.to(torch.bfloat16).save_pretrained(folder)
    write_google_form(folder / "config.json")


def report(target_folder: Path, folder: Path) -> None:
    """Acceptance on held-out prompts."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(target_folder)
    prompts = [prompt for prompt in corpus.held_out_prompts(80, seed=1) if len(prompt) < 450][:40]
    acceptance = measure(*load_pair(str(target_folder), str(folder)), tokenizer, prompts, new_tokens=128)
    positions = ", ".join(f"{share:.2f}" for share in acceptance.by_position)
    _say(f"held out: {acceptance.overall:.1%} of drafted tokens accepted; all right up to position: {positions}")
    _say(f"first 48 tokens of each text: {acceptance.early:.1%}; transformers' assisted: {acceptance.assisted:.1%}")


def write_google_form(path: Path) -> None:
    """State the full layers' head size as `global_head_dim`, as the released checkpoints do."""
    config = json.loads(path.read_text())
    text = config["text_config"]
    overrides = text.pop("per_layer_config")
    (text["global_head_dim"],) = {override["head_dim"] for override in overrides.values()}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


@click.command(help=__doc__)
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
def main(out: Path) -> None:
    torch.set_num_threads(2)
    if not (out / "target" / "config.json").exists():
        write_target(out / "target")
    if not (out / "drafter" / "config.json").exists():
        write_drafter(out / "target", out / "drafter")
    report(out / "target", out / "drafter")


if __name__ == "__main__":
    main()
