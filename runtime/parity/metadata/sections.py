"""The container itself: which sections there are, what their items say, the notes on the whole file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from litert_lm_builder import litertlm_core
from litert_lm_builder.litertlm_builder import Backend

from ...bundle.container import MODEL_SECTION, BundleFile, Section
from ...bundle.names import (
    EMBEDDER,
    MTP_DRAFTER,
    PER_LAYER_EMBEDDER,
    PREFILL_DECODE,
    SMALLEST_CONTEXT_NOTE,
    TEMPLATE_NOTE,
)

_TOKENIZERS = ("HF_Tokenizer_Zlib", "SP_Tokenizer")
_MODELS = (PREFILL_DECODE, EMBEDDER, PER_LAYER_EMBEDDER, MTP_DRAFTER)
_ACTIVATIONS = ("fp16", "float16", "fp32", "float32", "fp32_fp16")
# Written by litert-lm-builder or by hand, for people: nothing depends on them.
_FREE_NOTES = ("Authors", "uuid", "creation_timestamp")


def missing_sections(bundle: BundleFile) -> Iterator[str]:
    """Kinds of sections of which there is none, or more than the one that is read."""
    counts = Counter(section.kind for section in bundle.sections)
    for kinds, title in (
        (("LlmMetadataProto",), "LLM metadata"),
        (("ExecutorMetadataProto",), "executor metadata"),
        (_TOKENIZERS, "tokenizer"),
    ):
        count = sum(counts[kind] for kind in kinds)
        if count != 1:
            yield f"{count or 'no'} {title} section{'s' if count > 1 else ''}, expected one"
    models = Counter(section.model_type for section in bundle.sections if section.kind == MODEL_SECTION)
    yield from (f"{count} models called {name}, expected one" for name, count in models.items() if count > 1)


def sections_not_compared(bundle: BundleFile) -> list[str]:
    """Sections that no stage looks into."""
    known = ("LlmMetadataProto", "ExecutorMetadataProto", *_TOKENIZERS)
    return [
        section.model_type or section.kind
        for section in bundle.sections
        if section.kind not in known and not (section.kind == MODEL_SECTION and section.model_type in _MODELS)
    ]


def item_problems(bundle: BundleFile) -> Iterator[str]:
    """Items of sections that LiteRT-LM would not understand, or that nothing compares; another container version."""
    major = int(bundle.version.split(".")[0])
    if major != litertlm_core.LITERTLM_MAJOR_VERSION:
        yield f"container version {bundle.version}, expected {litertlm_core.LITERTLM_MAJOR_VERSION}.x"
    for section in bundle.sections:
        for key, value in section.items.items():
            if problem := _item_problem(section, key, value):
                yield f"section {section.model_type or section.kind}: {problem}"


def _item_problem(section: Section, key: str, value: object) -> str | None:
    if section.kind != MODEL_SECTION:
        return f"item {key} is {value!r}, expected none"
    if key == "model_type":
        right = isinstance(value, str) and value.startswith("tf_lite_")
        return None if right else f"model_type is {value!r}, expected tf_lite_..."
    if key == "backend_constraint":
        given = {part.strip() for part in value.split(",")} if isinstance(value, str) else {value}
        return None if given <= set(Backend) else f"backend_constraint is {value!r}, expected some of cpu, gpu, ..."
    if key == "prefer_activation_type":
        return None if value in _ACTIVATIONS else f"prefer_activation_type is {value!r}, expected {_ACTIVATIONS}"
    return f"item {key} is {value!r}, which nothing is known of"


def note_problems(bundle: BundleFile, template_note: str) -> Iterator[str]:
    """Notes on the whole file that are not true: `template_note` is what an export says of the chat template."""
    for key, value in bundle.system_metadata.items():
        if key == TEMPLATE_NOTE and value != template_note:
            yield f"{key} is {value!r}, expected {template_note!r}"
        elif key not in (*_FREE_NOTES, TEMPLATE_NOTE, SMALLEST_CONTEXT_NOTE):
            yield f"{key} is {value!r}, which nothing is known of"
