"""What a verification was made of and with: files, versions, machine, options, date; for the report."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle.names import MANIFEST_NAME
from ..errors import UserError
from ..fields import Fields, read_object
from ..text.prompts import Prompt

if TYPE_CHECKING:
    from ..decoding.generation import Generation
    from .stages.probe import Probe

_PACKAGES = ("gemma-mtp-export", "ai-edge-litert", "litert-lm", "torch", "transformers")


def about_run(
    file: Path, oracle_bytes: int, prompts: int, options: dict[str, Any], limits: dict[str, Any]
) -> dict[str, Any]:
    """Everything that is known before anything is compared, as plain JSON types.

    Args:
        file: the bundle; it is read once, for its SHA-256.
        oracle_bytes: bytes of the oracle's weights in memory at a time.
        prompts: how many.
        options: as given, by name.
        limits: the numbers of the limits, and their `name`.
    """
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return {
        "bundle": file.name,
        "bundle_bytes": file.stat().st_size,
        "bundle_sha256": digest,
        "sources": recorded_sources(file, digest),
        "oracle": "transformers' Gemma4ForCausalLM and Gemma4AssistantForCausalLM, float32, read layer by layer",
        "oracle_bytes": oracle_bytes,
        "prompts": prompts,
        "max_tokens": options["max_tokens"],
        "options": options,
        "limits": limits,
        "packages": {package: version(package) for package in _PACKAGES},
        "machine": {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
        },
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def recorded_sources(bundle: Path, digest: str) -> dict[str, Any] | None:
    """The checkpoints' names and their files' SHA-256 by role, as the manifest beside `bundle` has them.

    None where there is no manifest, or where it speaks of another bundle than the one with this SHA-256. The files
    themselves are not read.
    """
    path = bundle.with_name(MANIFEST_NAME)
    try:
        manifest = Fields(read_object(path), str(path))
        ours = manifest.object("files").object(bundle.name).text("sha256") == digest
        return dict(manifest.object("sources").values) if ours else None
    except UserError:
        return None


def about_texts(prompts: Sequence[Prompt], answers: Sequence[Generation]) -> list[dict[str, Any]]:
    """Every prompt and the bundle's answer."""
    return [
        {
            "prompt": prompt.asked,
            "answer": answer.text,
            "tokens": len(answer.tokens),
            "finish_reason": answer.finish_reason,
        }
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def about_probe(probe: Probe) -> dict[str, Any]:
    """`probe`, each slot that was looked at and why; and `pass_tokens`, how many slots are compared from each on."""
    return {
        "probe": {str(slot): why for slot, why in probe.slots.items()},
        "pass_tokens": probe.draft_tokens + 1,
    }
