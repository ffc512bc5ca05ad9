"""Train the chat adapter: `python -m tests.small_pair.chat_adapter.train OUT`, one CPU core, about four minutes.

The small target is overfitted to the dialogues on purpose: what counts is that its greedy answers are exactly theirs,
so that a test can expect a thinking channel, a tool call and the ends of turns.
"""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import click
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn import functional as F
from transformers import AutoTokenizer, Gemma4ForConditionalGeneration, PreTrainedTokenizerBase

from ..dialogues import Dialogue, all_turns

FOLDER = Path(__file__).resolve().parent
TARGET = FOLDER.parents[2] / "export" / "small_pair" / "target"
SEED, STEPS, ROWS, RATE, WARM_UP = 20, 280, 10, 1.5e-3, 20
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def prompt(tokenizer: PreTrainedTokenizerBase, dialogue: Dialogue, turn: int) -> str:
    """The text before the answer of `turn`, as transformers renders the whole conversation."""
    template = (FOLDER / "chat_template.jinja").read_text("utf-8")
    return tokenizer.apply_chat_template(
        dialogue.messages(turn),
        chat_template=template,
        tokenize=False,
        add_generation_prompt=True,
        tools=list(dialogue.tools) or None,
        **dialogue.variables,
    )


def rows(tokenizer: PreTrainedTokenizerBase) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Token ids and whether each is part of an answer, both `[tokens]`.

    A turn follows the conversation as the template renders it, and also as a runtime's cache holds it: earlier
    thinking is kept, nothing stands between the token that ends an answer and the next turn, and with speculative
    decoding LiteRT-LM 0.18.1 does not keep that token either.
    """
    texts = []
    for dialogue, place in all_turns():
        turn = dialogue.turns[place]
        texts.append([(prompt(tokenizer, dialogue, place), turn.raw + turn.stop)])
        if place:
            texts += [cached(tokenizer, dialogue, place, keep_stop=keep) for keep in (True, False)]
    return [encoded(tokenizer, parts) for parts in texts]


def cached(
    tokenizer: PreTrainedTokenizerBase, dialogue: Dialogue, last: int, *, keep_stop: bool
) -> list[tuple[str, str]]:
    """Prompts and answers up to the turn `last`, as a runtime's cache holds them."""
    parts = []
    for place, turn in enumerate(dialogue.turns[: last + 1]):
        text = prompt(tokenizer, dialogue, place)
        if place:
            begin = "<|tool_response>response" if turn.sent["role"] == "tool" else "<|turn>user"
            text = text[text.rindex(begin) :].removeprefix("<|tool_response>")
        parts.append((text, turn.raw + (turn.stop if keep_stop or place == last else "")))
    return parts


def encoded(tokenizer: PreTrainedTokenizerBase, parts: list[tuple[str, str]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of prompts and answers in turn, and which of them the answers are, both `[tokens]`."""
    ids: list[int] = []
    answers: list[bool] = []
    for texts in parts:
        for text, is_answer in zip(texts, (False, True), strict=True):
            tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
            ids += tokens
            answers += [is_answer] * len(tokens)
    return torch.tensor(ids), torch.tensor(answers)


def loss_of(model: torch.nn.Module, batch: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Mean cross-entropy of the answers' tokens."""
    ids = torch.nn.utils.rnn.pad_sequence([row for row, _ in batch], batch_first=True)  # [B, T]
    answers = torch.nn.utils.rnn.pad_sequence([mask for _, mask in batch], batch_first=True)  # [B, T]
    logits = model(input_ids=ids, use_cache=False).logits  # [B, T, V]
    wanted = answers[:, 1:]
    return F.cross_entropy(logits[:, :-1][wanted], ids[:, 1:][wanted])


def train(steps: int) -> PeftModel:
    """The small target with an adapter that knows the dialogues."""
    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    tokenizer = AutoTokenizer.from_pretrained(TARGET)
    target = Gemma4ForConditionalGeneration.from_pretrained(TARGET, dtype=torch.float32)
    model = get_peft_model(target, LoraConfig(r=8, lora_alpha=16, target_modules=PROJECTIONS))
    examples = rows(tokenizer)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, RATE, (0.9, 0.95), weight_decay=0.0)
    started = time.monotonic()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min((step + 1) / WARM_UP, 1.0 - 0.95 * step / steps)
        loss = loss_of(model, rng.sample(examples, ROWS))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 20 == 19:
            click.echo(f"step {step + 1}/{steps}: loss {loss.item():.4f}, {time.monotonic() - started:.0f} s")
    return model.eval()


def wrong_tokens(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many tokens of the answers are not the model's first choice after what stands before them."""
    wrong = 0
    for ids, answers in rows(tokenizer):
        with torch.no_grad():
            choices = model(input_ids=ids[None], use_cache=False).logits[0].argmax(-1)  # [T]
        wrong += int(((choices[:-1] != ids[1:]) & answers[1:]).sum())
    return wrong


def save(model: PeftModel, folder: Path) -> None:
    """Adapter in PEFT's format, without the model card that names this machine's folders."""
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "small_pair/target"
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


@click.command(help=__doc__)
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--steps", default=STEPS, show_default=True)
def main(out: Path, steps: int) -> None:
    torch.set_num_threads(1)  # Two threads that wait for each other on busy cores take twenty times as long.
    model = train(steps)
    click.echo(
        f"tokens of the answers that it would not say: {wrong_tokens(model, AutoTokenizer.from_pretrained(TARGET))}"
    )
    save(model, out)


if __name__ == "__main__":
    main()
