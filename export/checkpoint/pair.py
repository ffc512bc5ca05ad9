"""A target and a drafter that belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from ...runtime.errors import UserError
from .adapted import AdaptedCheckpoint
from .adapter import base_model
from .config import DecoderConfig, DrafterConfig, TargetConfig, check_pair
from .files import Checkpoint
from .forms import is_adapter
from .hub import resolve
from .quantized.packed import open_checkpoint
from .read_config import read_drafter_config, read_target_config
from .weights import EMBEDDING, HEAD

_PUBLISHER = "google/"
Config = TypeVar("Config", bound=DecoderConfig)


@dataclass(frozen=True)
class Pair:
    """A target and a drafter that belong together, with their configurations.

    `notes` are lines that a person should read before the work begins.
    """

    target: Checkpoint
    drafter: Checkpoint
    target_config: TargetConfig
    drafter_config: DrafterConfig
    notes: tuple[str, ...] = ()


def open_pair(target: str, drafter: str, adapters: Sequence[str] = ()) -> Pair:
    """Open both checkpoints and check that the drafter was made for the target.

    Args:
        target: hub id or folder; of an adapter, its base model is opened and the adapter merged into it.
        drafter: hub id or folder.
        adapters: LoRA adapters (hub ids or folders) to merge into the target, one after the other.

    Raises:
        UserError: one of them cannot be exported, or they do not belong together.
    """
    target_checkpoint = _open_target(target, adapters)
    target_where = str(target_checkpoint.path("config.json"))
    target_config = read_target_config(target_checkpoint.config, target_where)
    drafter_checkpoint = open_checkpoint(drafter)
    drafter_where = str(drafter_checkpoint.path("config.json"))
    drafter_config = read_drafter_config(drafter_checkpoint.config, drafter_where)
    check_pair(target_config, drafter_config, drafter_where)
    _check_per_layer_rows(target_config, target_where)
    target_config = _with_head(target_checkpoint, target_config)
    drafter_config = _with_head(drafter_checkpoint, drafter_config)
    notes = [
        *_adapter_notes(target_checkpoint),
        *_head_notes("target", target_checkpoint, target_config),
        *_head_notes("drafter", drafter_checkpoint, drafter_config),
    ]
    return Pair(target_checkpoint, drafter_checkpoint, target_config, drafter_config, tuple(notes))


def _open_target(source: str, adapters: Sequence[str]) -> Checkpoint:
    folder = resolve(source)
    if not is_adapter(folder):
        checkpoint = open_checkpoint(source)
        if adapters and checkpoint.packed:
            raise UserError(
                f"{checkpoint.folder}: a quantized checkpoint, into whose codes no adapter can be merged; give the bf16"
                " model that the adapter was trained on"
            )
        return AdaptedCheckpoint(source, adapters) if adapters else checkpoint
    base = base_model(folder)
    advice = f"give the model that it was trained on, not quantized, and --adapter {source}"
    if base is None:
        raise UserError(f"{folder}: a PEFT adapter that does not name its base model: {advice}")
    try:
        checkpoint = Checkpoint(base)
    except UserError as error:
        raise UserError(f"{folder}: a PEFT adapter of {base}, which cannot be opened ({error}); {advice}") from error
    if checkpoint.config.get("quantization_config"):
        raise UserError(f"{folder}: a PEFT adapter of {base}, whose weights are quantized; {advice}")
    return AdaptedCheckpoint(base, [source, *adapters])


def _adapter_notes(target: Checkpoint) -> list[str]:
    if not isinstance(target, AdaptedCheckpoint):
        return []
    notes = []
    for adapter in target.adapters:
        notes.append(
            f"target: {target.source} with the adapter {adapter.name} merged into {len(adapter.changes)} weights"
        )
        notes += [
            f"{adapter.name}: skipping {count} tensors of {group}" for group, count in sorted(adapter.skipped.items())
        ]
    if target.brings_text_files:
        notes.append(f"target: tokenizer and chat template come from the folder of {target.brings_text_files}")
    return notes


def fine_tune_note(pair: Pair) -> str | None:
    """What a person should know who exports a fine-tune with the drafter of its base model; None if it is none.

    A folder may hold anything: only an adapter, and a hub id that is not Google's with a drafter that is, say so.
    """
    borrowed = pair.drafter.source.startswith(_PUBLISHER) and not pair.target.source.startswith(_PUBLISHER)
    if not borrowed and not isinstance(pair.target, AdaptedCheckpoint):
        return None
    return (
        "the drafter was trained with the base model: the text stays the fine-tune's own, but the further it is from"
        " the base's, the fewer drafted tokens are accepted; `verify` and `benchmark` show the acceptance rate on your"
        " prompts (--prompts), and speculative decoding can be left off where it does not pay"
    )


def _with_head(checkpoint: Checkpoint, config: Config) -> Config:
    """`config` with the head that transformers would give the model.

    A head in the files is the model's head: transformers ties it to the embedding only where both hold the same values
    (`PreTrainedModel.tie_weights`). Without one, the head is the embedding, unless `tie_word_embeddings` is false:
    then transformers makes up a random head.

    Raises:
        UserError: `config.json` says that the head is not tied, and there is none.
    """
    own_head = checkpoint.has(HEAD) and checkpoint.has(EMBEDDING)
    if not own_head and not checkpoint.declares_tied_head:
        missing = EMBEDDING if checkpoint.has(HEAD) else HEAD
        raise UserError(
            f"{checkpoint.path('config.json')}: tie_word_embeddings is false, but the checkpoint has no {missing}, in"
            f" place of which transformers would make up random values; save the model again with its {missing}, or set"
            " tie_word_embeddings to true if it was trained so"
        )
    return replace(config, own_head=own_head)


def _head_notes(role: str, checkpoint: Checkpoint, config: DecoderConfig) -> list[str]:
    if not config.own_head:
        return []
    count, bits = config.vocab_size * config.hidden_size, checkpoint.trained_bits(HEAD) or 8
    tied = ", though config.json says that it is tied" if checkpoint.declares_tied_head else ""
    return [
        f"{role}: its head is its own {HEAD}{tied}: {count:,} weights, {count * bits / 8e6:,.1f} MB as int{bits};"
        " a bundle stores them beside the embedding, whose bytes a tied head shares"
    ]


def _check_per_layer_rows(config: TargetConfig, where: str) -> None:
    if config.ple_vocab_size < config.vocab_size:
        raise UserError(
            f"{where}: vocab_size is {config.vocab_size}, but vocab_size_per_layer_input is {config.ple_vocab_size}:"
            " the token embedding was resized and the per-layer embedding was not, so that transformers itself fails on"
            " the added tokens; resize both with resize_token_embeddings()"
        )
