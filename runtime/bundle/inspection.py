"""What a bundle holds, for people and for scripts; also of bundles that others made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..text.tokenizer import read_tokenizer
from .cache_scales import scale_problems, scales_by_cache
from .container import BundleFile, Section
from .context.placeholder import is_placeholder, replaced
from .loading import bundle_file_in
from .model_file import ModelInfo, SignatureInfo, dtype_size, read_model
from .names import EMBEDDER, INPUT_POS, MTP_DRAFTER, PREFILL_DECODE, TEMPLATE_NOTE

# A dense head multiplies the whole vocabulary; the clustered one picks clusters first.
_CLUSTERED_HEAD_OPERATOR = "TOPK_V2"


@dataclass(frozen=True)
class Inspection:
    """A bundle and what its models say of themselves, by model type."""

    bundle: BundleFile
    models: dict[str, ModelInfo]

    @property
    def verify(self) -> SignatureInfo | None:
        """The target's verify signature."""
        target = self.models.get(PREFILL_DECODE)
        return target.signature("verify") if target else None

    @property
    def draft_tokens(self) -> int | None:
        """Tokens drafted per round: verify takes one more; None without verify."""
        positions = self.verify.input(INPUT_POS) if self.verify else None
        return positions.shape[0] - 1 if positions and positions.shape else None

    @property
    def further_draft_tokens(self) -> list[int]:
        """Draft lengths of verify signatures beside `verify`, which this project's runtime can choose from."""
        target = self.models.get(PREFILL_DECODE)
        others = [s for s in target.signatures if s.name.startswith("verify") and s.name != "verify"] if target else []
        found = [positions.shape[0] - 1 for signature in others if (positions := signature.input(INPUT_POS))]
        return sorted(found)

    @property
    def drafter(self) -> SignatureInfo | None:
        """The drafter's signature, the first of its model."""
        model = self.models.get(MTP_DRAFTER)
        return model.signatures[0] if model and model.signatures else None

    @property
    def head(self) -> str | None:
        """`clustered` or `dense`; None without a drafter."""
        if self.drafter is None:
            return None
        return "clustered" if _CLUSTERED_HEAD_OPERATOR in self.drafter.operators else "dense"

    @property
    def kv_caches(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and dtype of all caches that the target writes, by name."""
        target = self.models.get(PREFILL_DECODE)
        decode = target.signature("decode") if target else None
        return decode.caches(written=True) if decode else {}

    @property
    def kv_dtypes(self) -> list[str]:
        """How caches are stored: one dtype, in bundles of this project."""
        return sorted({dtype for _, dtype in self.kv_caches.values()})

    @property
    def kv_bytes(self) -> int:
        """Bytes of all caches that the target writes, with the context that the bundle asks for."""
        stated = self.bundle.llm_metadata.max_num_tokens if self.bundle.llm_metadata else 0
        chosen = (self.slots, stated or self.slots) if self.contexts and self.slots else None
        total = 0
        for shape, dtype in self.kv_caches.values():
            elements = dtype_size(dtype)
            for size in shape:
                elements *= replaced(size, *chosen) if chosen else size
            total += elements
        return total

    def stop_texts(self) -> dict[str, str]:
        """Every stop token's ids, as `1` or `1 2`, and its text by the bundle's tokenizer.

        Raises:
            UserError: the tokenizer cannot be read.
        """
        metadata, found = self.bundle.llm_metadata, self.bundle.tokenizer()
        if metadata is None or found is None:
            return {}
        tokenizer = read_tokenizer(*found, str(self.bundle.path))
        texts: dict[str, str] = {}
        for stop in metadata.stop_tokens:
            ids = list(stop.token_ids.ids) or tokenizer.encode(stop.token_str)
            texts[" ".join(map(str, ids))] = tokenizer.decode(ids)
        return texts

    @property
    def slots(self) -> int | None:
        """Length of the caches in the file, be it a placeholder; None if there is no decode with a mask."""
        target = self.models.get(PREFILL_DECODE)
        decode = target.signature("decode") if target else None
        mask = decode.input("mask") if decode else None
        return mask.shape[-1] if mask else None

    @property
    def contexts(self) -> tuple[int, int] | None:
        """The shortest and the longest context that can be chosen at load; None where it is fixed."""
        if self.slots is None or not is_placeholder(self.slots):
            return None
        return self.bundle.smallest_context, self.slots - 1

    @property
    def template_verdict(self) -> str | None:
        """What the export says of the chat template; None in bundles of other makers."""
        return self.bundle.system_metadata.get(TEMPLATE_NOTE)

    def problems(self) -> list[str]:
        """Why LiteRT-LM would not run this bundle with MTP, one line each; empty if nothing was found."""
        needed = (PREFILL_DECODE, EMBEDDER, MTP_DRAFTER)
        found = [f"no {name} model" for name in needed if name not in self.models]
        target = self.models.get(PREFILL_DECODE)
        if target:
            for name in ("decode", "verify"):
                signature = target.signature(name)
                if signature is None:
                    found.append(f"prefill_decode has no signature {name}")
                elif not any(output.name == "activations" for output in signature.outputs):
                    found.append(f"{name} does not return activations, which the drafter takes")
            if not any(signature.name.startswith("prefill") for signature in target.signatures):
                found.append("prefill_decode has no prefill signature")
        if self.drafter and self.verify:
            written = self.verify.caches(written=True)
            found += [
                f"mtp_drafter reads {name} {tensor}, but verify writes {written.get(name)}"
                for name, tensor in self.drafter.caches(written=False).items()
                if written.get(name) != tensor
            ]
        found += scale_problems({name: model.cache_scales for name, model in self.models.items()})
        metadata, draft_tokens, slots = self.bundle.llm_metadata, self.draft_tokens, self.slots
        if metadata is None:
            found.append("no LLM metadata")
        elif draft_tokens is not None and slots is not None and not is_placeholder(slots):
            room = slots - metadata.max_num_tokens
            if metadata.max_num_tokens and room < draft_tokens + 1:
                found.append(
                    f"the cache holds {room} tokens more than the context of {metadata.max_num_tokens}, but verify may"
                    f" write {draft_tokens + 1}: text at the context's end would differ"
                )
        return found

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types."""
        metadata = self.bundle.llm_metadata
        return {
            "file": self.bundle.path.name,
            "bytes": self.bundle.path.stat().st_size,
            "container_version": self.bundle.version,
            "system_metadata": self.bundle.system_metadata,
            "sections": [
                {"type": section.kind, "model_type": section.model_type, "bytes": section.size, "items": section.items}
                | _shared(self.bundle, section)
                for section in self.bundle.sections
            ],
            "context_length": metadata.max_num_tokens if metadata else None,
            "context_lengths_at_load": list(self.contexts) if self.contexts else None,
            "model_family": metadata.llm_model_type.WhichOneof("model_type") if metadata else None,
            "stop_tokens": [list(stop.token_ids.ids) or stop.token_str for stop in metadata.stop_tokens]
            if metadata
            else [],
            "chat_template": bool(metadata.jinja_prompt_template) if metadata else False,
            "chat_template_verdict": self.template_verdict,
            "min_runtime_version": metadata.min_runtime_version if metadata else None,
            "speculative_decoding": {
                "draft_tokens": self.draft_tokens,
                "further_draft_tokens": self.further_draft_tokens,
                "head": self.head,
                "shared_kv": {
                    name: {"shape": list(shape), "dtype": dtype}
                    for name, (shape, dtype) in (self.drafter.caches(written=False) if self.drafter else {}).items()
                },
                "problems": self.problems(),
            },
            "kv_cache_bytes": self.kv_bytes,
            "kv_cache_dtypes": self.kv_dtypes,
            "kv_cache_scales": scales_by_cache(place for model in self.models.values() for place in model.cache_scales),
            "models": {name: _model_as_dict(model) for name, model in self.models.items()},
        }


def inspect_bundle(path: Path) -> Inspection:
    """Read what `path`, a .litertlm file or the folder of one, holds.

    Raises:
        UserError: not a readable bundle, or a folder without one.
    """
    bundle = BundleFile(bundle_file_in(path))
    models = {
        name: read_model(bundle.content(section), f"{bundle.path} ({name})")
        for name, section in bundle.model_sections().items()
    }
    return Inspection(bundle, models)


def _shared(bundle: BundleFile, section: Section) -> dict[str, Any]:
    """Which bytes of `section` another one counts as well."""
    found = bundle.shared(section)
    return {"shared": {"with": found[0].name, "bytes": found[1]}} if found else {}


def _model_as_dict(model: ModelInfo) -> dict[str, Any]:
    return {
        "constant_bytes": model.constant_bytes,
        "signatures": {
            signature.name: {
                "inputs": {t.name: {"shape": list(t.shape), "dtype": t.dtype} for t in signature.inputs},
                "outputs": {t.name: {"shape": list(t.shape), "dtype": t.dtype} for t in signature.outputs},
                "operators": dict(sorted(signature.operators.items())),
            }
            for signature in model.signatures
        },
    }
