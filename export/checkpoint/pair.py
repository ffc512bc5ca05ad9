"""A target and a drafter that belong together."""

from __future__ import annotations

from dataclasses import dataclass

from .config import DrafterConfig, TargetConfig, check_pair, read_drafter_config, read_target_config
from .files import Checkpoint


@dataclass(frozen=True)
class Pair:
    """A target and a drafter that belong together, with their configurations."""

    target: Checkpoint
    drafter: Checkpoint
    target_config: TargetConfig
    drafter_config: DrafterConfig


def open_pair(target: str, drafter: str) -> Pair:
    """Open both checkpoints (hub id or folder) and check that the drafter was made for the target.

    Raises:
        UserError: one of them cannot be exported, or they do not belong together.
    """
    target_checkpoint = Checkpoint(target)
    target_config = read_target_config(target_checkpoint.config, str(target_checkpoint.path("config.json")))
    drafter_checkpoint = Checkpoint(drafter)
    drafter_where = str(drafter_checkpoint.path("config.json"))
    drafter_config = read_drafter_config(drafter_checkpoint.config, drafter_where)
    check_pair(target_config, drafter_config, drafter_where)
    return Pair(target_checkpoint, drafter_checkpoint, target_config, drafter_config)
