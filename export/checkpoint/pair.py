"""A target and a drafter that belong together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

from ...runtime.errors import UserError
from .config import DecoderConfig, DrafterConfig, TargetConfig, check_pair, read_drafter_config, read_target_config
from .files import Checkpoint
from .weights import EMBEDDING, HEAD

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


def open_pair(target: str, drafter: str) -> Pair:
    """Open both checkpoints (hub id or folder) and check that the drafter was made for the target.

    Raises:
        UserError: one of them cannot be exported, or they do not belong together.
    """
    target_checkpoint = Checkpoint(target)
    target_where = str(target_checkpoint.path("config.json"))
    target_config = read_target_config(target_checkpoint.config, target_where)
    drafter_checkpoint = Checkpoint(drafter)
    drafter_where = str(drafter_checkpoint.path("config.json"))
    drafter_config = read_drafter_config(drafter_checkpoint.config, drafter_where)
    check_pair(target_config, drafter_config, drafter_where)
    _check_per_layer_rows(target_config, target_where)
    target_config = _with_head(target_checkpoint, target_config)
    drafter_config = _with_head(drafter_checkpoint, drafter_config)
    notes = [
        *_head_notes("target", target_checkpoint, target_config),
        *_head_notes("drafter", drafter_checkpoint, drafter_config),
    ]
    return Pair(target_checkpoint, drafter_checkpoint, target_config, drafter_config, tuple(notes))


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
    count = config.vocab_size * config.hidden_size
    tied = ", though config.json says that it is tied" if checkpoint.declares_tied_head else ""
    return [
        f"{role}: its head is its own {HEAD}{tied}: {count:,} weights, {count / 1e6:,.1f} MB as int8;"
        " as many as of a tied head, which a bundle also stores apart from the embedding"
    ]


def _check_per_layer_rows(config: TargetConfig, where: str) -> None:
    if config.ple_vocab_size < config.vocab_size:
        raise UserError(
            f"{where}: vocab_size is {config.vocab_size}, but vocab_size_per_layer_input is {config.ple_vocab_size}:"
            " the token embedding was resized and the per-layer embedding was not, so that transformers itself fails on"
            " the added tokens; resize both with resize_token_embeddings()"
        )
