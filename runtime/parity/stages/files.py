"""The first stage: are the files beside a bundle what the bundle holds, and what the export's manifest says of them?"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...bundle.container import BundleFile, Section
from ...bundle.names import MANIFEST_NAME
from ...errors import UserError
from ..metadata.manifest import read_manifest
from ..report.report import Stage

_CHUNK = 1 << 22  # Bytes that are compared at a time.


def files_stage(stage: Stage, bundle: BundleFile, sha256: str) -> None:
    """Compare every .tflite file beside `bundle`, whose hash is known, with its section, and all with the manifest.

    Other stages run the sections only.
    """
    folder, sections = bundle.path.parent, bundle.model_sections()
    hashes, problems = {bundle.path.name: (bundle.path.stat().st_size, sha256)}, []
    for file in sorted(folder.glob("*.tflite")):
        section = sections.get(file.stem)
        hashes[file.name], difference = _compared(file, bundle, section)
        problems += [f"{file.name} {difference}"] if difference else []
    if len(hashes) > 1:
        stage.holds("each .tflite file is its section", problems)
    else:
        stage.note(".tflite files", "none beside the bundle")
    try:
        recorded = _recorded(bundle.path)
    except UserError as error:
        stage.holds("the manifest's sizes and hashes", [str(error)])
        return
    if recorded is None:
        stage.skip("the manifest's sizes and hashes", f"no {MANIFEST_NAME}")
        return
    stage.holds("the manifest's sizes and hashes", manifest_problems(recorded, hashes))
    missing = sorted(recorded.keys() - hashes.keys())
    if missing:
        stage.note("in the manifest, not in the folder", ", ".join(missing))


def _recorded(bundle: Path) -> Mapping[str, Any] | None:
    """What the manifest beside `bundle` says of files: by name, their `bytes` and `sha256`; None without a manifest.

    Raises:
        UserError: it cannot be read, or names no files with their sizes and hashes.
    """
    manifest = read_manifest(bundle)
    if manifest is None:
        return None
    entries = manifest.get("files")
    if not isinstance(entries, dict) or not all(map(_is_entry, entries.values())):
        raise UserError(f"{MANIFEST_NAME} names no files with their sizes and hashes; export again")
    return entries


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("bytes"), int) and isinstance(entry.get("sha256"), str)


def manifest_problems(files: Mapping[str, Any], hashes: Mapping[str, tuple[int, str]]) -> list[str]:
    """Where what a manifest records of `files` differs from their sizes and SHA-256, `hashes`."""
    problems = []
    for name, (size, sha256) in hashes.items():
        recorded = files.get(name)
        if recorded is None:
            problems.append(f"{name} is not in it")
        elif recorded["bytes"] != size:
            problems.append(f"{name} has {size:,} bytes, not {recorded['bytes']:,}")
        elif recorded["sha256"] != sha256:
            problems.append(f"{name} has SHA-256 {sha256[:12]}..., not {recorded['sha256'][:12]}...")
    return problems


def _compared(file: Path, bundle: BundleFile, section: Section | None) -> tuple[tuple[int, str], str]:
    """Size and SHA-256 of a file, and how it differs from `section`; empty if it does not."""
    digest, at, first = hashlib.sha256(), 0, -1
    content = bundle.content(section) if section else memoryview(b"")
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            digest.update(chunk)
            if first < 0 and chunk != content[at : at + len(chunk)]:
                first = at
            at += len(chunk)
    known = (at, digest.hexdigest())
    if section is None:
        return known, "is no model of the bundle"
    if at != section.size:
        return known, f"has {at:,} bytes, its section {section.size:,}"
    return known, f"differs from its section in bytes {first:,} to {first + _CHUNK:,}" if first >= 0 else ""
