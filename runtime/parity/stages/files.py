"""The first stage: are the files beside a bundle what the bundle holds, and what the export's manifest says of them?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...bundle.container import BundleFile, Section
from ...errors import UserError
from ..report.report import Stage

MANIFEST = "manifest.json"
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
        manifest = read_manifest(folder / MANIFEST)
    except UserError as error:
        stage.holds("the manifest's sizes and hashes", [str(error)])
        return
    if manifest is None:
        stage.skip("the manifest's sizes and hashes", f"no {MANIFEST}")
        return
    stage.holds("the manifest's sizes and hashes", manifest_problems(manifest, hashes))
    missing = sorted(manifest["files"].keys() - hashes.keys())
    if missing:
        stage.note("in the manifest, not in the folder", ", ".join(missing))


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest of an export; None if there is none.

    Raises:
        UserError: it is no JSON object, or names no files with their sizes and hashes.
    """
    try:
        manifest = json.loads(path.read_text("utf-8"))
        entries = [(entry["bytes"], entry["sha256"]) for entry in manifest["files"].values()]
        if not all(isinstance(size, int) and isinstance(sha256, str) for size, sha256 in entries):
            raise TypeError("a size or a hash is none")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{path.name} cannot be read ({reason}); export again") from error
    return manifest


def manifest_problems(manifest: Mapping[str, Any], hashes: Mapping[str, tuple[int, str]]) -> list[str]:
    """Where what a manifest records of files differs from their sizes and SHA-256, `hashes`."""
    problems = []
    for name, (size, sha256) in hashes.items():
        recorded = manifest["files"].get(name)
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
