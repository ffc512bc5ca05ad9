"""`manifest.json` beside a bundle: was it made from the checkpoints given, with the options that it shows?"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...bundle.context.placeholder import placeholder_length
from ...bundle.inspection import Inspection
from ...bundle.names import INPUT_POS, MANIFEST_NAME, MTP_DRAFTER, PREFILL_DECODE
from ...errors import UserError
from ..report.report import Stage
from .fields import json_differences

_SOURCES, _OPTIONS = "the checkpoints are those of the manifest", "the bundle has the manifest's options"
_ACTIVATIONS = {"fp16": "fp16", "fp32": "fp32", "mixed": "fp32_fp16"}
_ALL_BACKENDS = ["cpu", "gpu"]
_DIGITS = 12


def read_manifest(bundle: Path) -> Mapping[str, Any] | None:
    """The manifest beside the file `bundle`; None if there is none.

    Raises:
        UserError: it is no JSON object.
    """
    file = bundle.parent / MANIFEST_NAME
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not readable as JSON ({error}); expected what the export wrote") from error
    if not isinstance(found, dict):
        raise UserError(f"{file}: holds {type(found).__name__}, expected a JSON object; export again")
    return found


def manifest_checks(stage: Stage, inspection: Inspection, sources: Callable[[], Mapping[str, Any]]) -> None:
    """Compare the manifest beside the bundle with the checkpoints given and with the bundle.

    Args:
        stage: to fill.
        inspection: of the bundle.
        sources: what a manifest would say of the checkpoints given, as `sources`; called only if there is a manifest,
            since it reads every byte of them.
    """
    try:
        manifest = read_manifest(inspection.bundle.path)
    except UserError as error:
        stage.holds(_SOURCES, [str(error)])
        return
    if manifest is None:
        stage.skip(_SOURCES, f"no {MANIFEST_NAME} beside the bundle")
        stage.skip(_OPTIONS, f"no {MANIFEST_NAME} beside the bundle")
        return
    stage.holds(_SOURCES, list(source_problems(manifest.get("sources"), sources())))
    try:
        problems = list(option_problems(manifest["options"], inspection))
    except (KeyError, TypeError, ValueError) as error:
        problems = [f"its options cannot be read ({type(error).__name__}: {error})"]
    stage.holds(_OPTIONS, problems)


def source_problems(found: Any, given: Mapping[str, Any]) -> Iterator[str]:
    """Files of the checkpoints `given` that are not those of a manifest's `sources`; names of folders do not count."""
    if not isinstance(found, Mapping):
        yield "the manifest names no sources"
        return
    for role, source in given.items():
        entry = found.get(role)
        if not isinstance(entry, Mapping):
            yield f"the manifest names no {role}"
            continue
        for key in ("sha256", "text_sha256"):
            if key in source:
                yield from _hash_problems(role, entry.get(key), source[key])
        adapters, expected = entry.get("adapters") or [], source.get("adapters") or []
        if not isinstance(adapters, list) or not all(isinstance(adapter, Mapping) for adapter in adapters):
            yield f"{role}: the manifest's adapters cannot be read"
        elif len(adapters) != len(expected):
            yield f"{role}: the bundle was made with {_named(adapters)}, given: {_named(expected)}"
        else:
            for one, other in zip(adapters, expected, strict=True):
                yield from _hash_problems(f"{role}, adapter {other['name']}", one.get("sha256"), other["sha256"])
    for role in found.keys() - given.keys():
        yield f"the manifest names a {role}, which was not given"


def _hash_problems(where: str, made_from: Any, given: Mapping[str, str]) -> Iterator[str]:
    if not isinstance(made_from, Mapping):
        yield f"{where}: the manifest has no hashes of it"
        return
    for name in sorted(made_from.keys() | given.keys()):
        one, other = made_from.get(name), given.get(name)
        if other is None:
            yield f"{where}: the bundle was made from {name}, which is not there"
        elif one is None:
            yield f"{where}: the bundle was made without {name}"
        elif one != other:
            hashes = f"SHA-256 {str(one)[:_DIGITS]}..., this one has {other[:_DIGITS]}..."
            yield f"{where}: the bundle was made from another {name} ({hashes})"


def _named(adapters: list[Any]) -> str:
    names = ", ".join(str(adapter.get("name", "?")) for adapter in adapters)
    return f"adapter{'s' if len(adapters) > 1 else ''} {names}" if adapters else "no adapter"


def option_problems(options: Mapping[str, Any], inspection: Inspection) -> Iterator[str]:
    """Options of a manifest that the bundle does not show.

    Raises:
        KeyError, TypeError: an option is missing or has another type.
    """
    target = inspection.models[PREFILL_DECODE]
    prefills = sorted(
        positions.shape[0]
        for signature in target.signatures
        if signature.name.startswith("prefill") and (positions := signature.input(INPUT_POS))
    )
    found = {
        "prefill_lengths": prefills,
        "draft_tokens": inspection.draft_tokens,
        "verify_lengths": inspection.further_draft_tokens,
    }
    if inspection.bundle.llm_metadata is not None:
        found["context_length"] = inspection.bundle.llm_metadata.max_num_tokens
    expected = {key: options[key] for key in found}
    if inspection.contexts:
        # What can be chosen at load ends below the first placeholder above it.
        found["context_length"] = inspection.slots
        expected["context_length"] = placeholder_length(options["context_length"])
    yield from json_differences(found, expected)
    activations, backends = options["activations"], list(options["backends"])
    items = {"prefer_activation_type": _ACTIVATIONS[activations]} if activations else {}
    if backends != _ALL_BACKENDS:
        items["backend_constraint"] = ",".join(backends)
    for name, section in inspection.bundle.model_sections().items():
        wanted = items if name in (PREFILL_DECODE, MTP_DRAFTER) else {}
        stated = {key: value for key, value in section.items.items() if key != "model_type"}
        yield from json_differences(stated, wanted, name)
