"""Verify a bundle against the checkpoints that it was made from, as one call.

from gemma_mtp.export.parity import verify_bundle

report = verify_bundle("out/model.litertlm", "google/gemma-4-E2B-it", "google/gemma-4-E2B-it-assistant")
assert report.passed, report.summary()
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..runtime.bundle.loading import bundle_file_in
from ..runtime.errors import UserError
from ..runtime.fields import shown
from ..runtime.native_output import quiet_imports
from ..runtime.parity.options import VerifyOptions
from ..runtime.parity.oracle.oracle import Oracle
from ..runtime.parity.report.report import Report
from ..runtime.parity.stage_runs import Progress
from ..runtime.parity.verify import verify
from ..runtime.text.prompts import DEFAULT_PROMPTS, user_prompt
from ..runtime.units import size
from .bundle.reference import checkpoint_text
from .checkpoint.files import Checkpoint
from .checkpoint.pair import Pair, open_pair

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def verify_bundle(
    bundle: str | Path,
    target: str,
    drafter: str,
    options: VerifyOptions | None = None,
    *,
    adapters: Sequence[str] = (),
    chat_template: Path | None = None,
    max_memory: int | None = None,
    on_progress: Progress | None = None,
) -> Report:
    """Compare `bundle` with transformers' models on the two checkpoints, stage by stage.

    Args:
        bundle: a .litertlm file, or an export's folder.
        target: hub id or folder.
        drafter: hub id or folder.
        options: what to compare on; three general prompts by default.
        adapters: LoRA adapters that were merged into the target.
        chat_template: the file that was given at export instead of the target's own.
        max_memory: refuse to begin if more bytes than this would be needed.
        on_progress: see `verify`.

    Raises:
        UserError: bundle or checkpoints cannot be read, the checkpoints do not belong together, a prompt cannot be run,
            or memory does not suffice.
    """
    path = Path(bundle)
    options = options or VerifyOptions(tuple(user_prompt(text) for text in DEFAULT_PROMPTS))
    pair = open_pair(target, drafter, adapters)
    oracle, text = open_oracle(pair), checkpoint_text(pair, chat_template)
    if max_memory is not None:
        check_memory(memory_needed(path, oracle), max_memory)
    report = verify(path, oracle, options, on_progress, text)
    about = {"target": target, "drafter": drafter} | ({"adapters": list(adapters)} if adapters else {})
    return replace(report, about={**about, **report.about})


def open_oracle(pair: Pair) -> Oracle:
    """transformers' models on both checkpoints.

    Raises:
        UserError: transformers cannot read a configuration, or a tensor is missing.
    """
    with quiet_imports():
        return Oracle(_transformers_config(pair.target), pair.target, _transformers_config(pair.drafter), pair.drafter)


def memory_needed(bundle: Path, oracle: Oracle) -> int:
    """Bytes that verifying takes: the oracle's weights at a time, and the bundle's models.

    Raises:
        UserError: there is no such bundle.
    """
    file = bundle_file_in(bundle)
    if not file.is_file():
        raise UserError(f"{file}: no such file; expected a .litertlm bundle")
    return oracle.bytes_needed + file.stat().st_size


def check_memory(needed: int, limit: int) -> None:
    """Refuse to begin what needs more than `limit` bytes.

    Raises:
        UserError: it does.
    """
    if needed > limit:
        raise UserError(
            f"--max-memory: about {size(needed)} are needed (the oracle's largest part, and the bundle),"
            f" the limit is {size(limit)}; raise it, or use a machine with more"
        )


def parse_size(text: str) -> int:
    """Bytes of `8GB`, `800M` or a plain number.

    Raises:
        UserError: it is none.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if not found:
        raise UserError(f"--max-memory: {shown(text)}, expected a size such as 8GB")
    count = float(found[1]) * _UNITS[found[2].upper()]
    if not math.isfinite(count):
        raise UserError(f"--max-memory: {shown(text)}, expected a size such as 8GB")
    return int(count)


def _transformers_config(checkpoint: Checkpoint) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(checkpoint.folder)
    except Exception as error:  # Which kind depends on the value that transformers stumbles over.
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(f"{checkpoint.path('config.json')}: transformers cannot read it ({reason})") from error
