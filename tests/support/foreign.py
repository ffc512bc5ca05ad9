"""A bundle that owes nothing to `export/`: another model, other tensor choices, packed with LiteRT-LM's public builder.

It keeps LiteRT-LM's contract, but chooses otherwise than this project wherever that leaves a choice: a bool mask, no
param_tensor, no per-layer embeddings, no short prefill, three draft tokens, no executor metadata, no chat template.
"""

from __future__ import annotations

from pathlib import Path

import litert_torch
import torch
from litert_lm_builder import litertlm_builder
from litert_lm_builder.runtime.proto import llm_metadata_pb2

VOCABULARY, HIDDEN, SLOTS, CONTEXT, DRAFT_TOKENS, PREFILL = 2048, 32, 80, 64, 3, 16
STOP_TEXT = "<turn|>"
Tensors = dict[str, torch.Tensor]


class Attention(torch.nn.Module):
    """One head over a cache: keys `[1, 1, L, D]`, values `[1, 1, D, L]`."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (torch.nn.Linear(HIDDEN, HIDDEN, bias=False) for _ in range(3))

    def write(self, x: torch.Tensor, first: torch.Tensor, keys: torch.Tensor, values: torch.Tensor):
        """Both caches with the rows of `x` `[1, T, D]` from slot `first` on."""
        slots = first + torch.arange(x.shape[1], dtype=torch.int32)
        place = (slots[:, None] == torch.arange(SLOTS, dtype=torch.int32)).float()  # [T, L]
        kept = 1 - place.sum(0)
        keys = keys * kept[:, None] + (place.T @ self.key(x)[0])[None, None]
        values = values * kept + (self.value(x)[0].T @ place)[None, None]
        return keys, values

    def read(self, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        scores = self.query(x)[:, None] @ keys.transpose(2, 3)
        scores = torch.where(mask, scores, -1e9)
        return (torch.softmax(scores, -1) @ values.transpose(2, 3))[:, 0]


class Target(torch.nn.Module):
    def __init__(self, head: torch.Tensor) -> None:
        super().__init__()
        self.attention, self.head = Attention(), torch.nn.Parameter(head)

    def forward(
        self,
        embeddings: torch.Tensor,
        input_pos: torch.Tensor,
        mask: torch.Tensor,
        kv_cache_k_0: torch.Tensor,
        kv_cache_v_0: torch.Tensor,
    ) -> Tensors:
        keys, values = self.attention.write(embeddings, input_pos[:1], kv_cache_k_0, kv_cache_v_0)
        x = embeddings + self.attention.read(embeddings, keys, values, mask)
        return {"logits": x @ self.head.T, "activations": x, "kv_cache_k_0": keys, "kv_cache_v_0": values}


class Prefill(torch.nn.Module):
    def __init__(self, target: Target) -> None:
        super().__init__()
        self.target = target

    def forward(self, **inputs: torch.Tensor) -> Tensors:
        outputs = self.target(**inputs)
        return {name: outputs[name] for name in ("kv_cache_k_0", "kv_cache_v_0")}


class Drafter(torch.nn.Module):
    """The target with its attention turned round: often right, not always."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.target = target

    def forward(
        self,
        activations: torch.Tensor,
        input_pos: torch.Tensor,
        mask: torch.Tensor,
        kv_cache_k_0: torch.Tensor,
        kv_cache_v_0: torch.Tensor,
    ) -> Tensors:
        embedding, state = activations[..., :HIDDEN], activations[..., HIDDEN:]
        x = embedding - 0.4 * self.target.attention.read(embedding, kv_cache_k_0, kv_cache_v_0, mask)
        x = x + 0.15 * state + 0.0 * input_pos.float()
        return {"logits": x @ self.target.head.T, "projected_activations": x}


class Embedder(torch.nn.Module):
    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(table)

    def forward(self, token_ids: torch.Tensor) -> Tensors:
        return {"embeddings": torch.nn.functional.embedding(token_ids, self.table)}


def foreign_models(folder: Path) -> dict[str, Path]:
    """The .tflite files by model type."""
    torch.manual_seed(3)
    table = torch.randn(VOCABULARY, HIDDEN)
    target = Target(table.roll(1, 0) + 0.5 * torch.randn(VOCABULARY, HIDDEN)).eval()
    caches = {
        "kv_cache_k_0": torch.zeros(1, 1, SLOTS, HIDDEN),
        "kv_cache_v_0": torch.zeros(1, 1, HIDDEN, SLOTS),
    }

    def step(tokens: int, **first: torch.Tensor) -> Tensors:
        mask = torch.zeros(1, 1, tokens, SLOTS, dtype=torch.bool)
        return {**first, "input_pos": torch.arange(tokens, dtype=torch.int32), "mask": mask, **caches}

    def target_step(tokens: int) -> Tensors:
        return step(tokens, embeddings=torch.zeros(1, tokens, HIDDEN))

    converters = {
        "prefill_decode": litert_torch.signature(
            f"prefill_{PREFILL}", Prefill(target).eval(), sample_kwargs=target_step(PREFILL)
        )
        .signature("decode", target, sample_kwargs=target_step(1))
        .signature("verify", target, sample_kwargs=target_step(DRAFT_TOKENS + 1)),
        "mtp_drafter": litert_torch.signature(
            "mtp_drafter", Drafter(target).eval(), sample_kwargs=step(1, activations=torch.zeros(1, 1, 2 * HIDDEN))
        ),
        "embedder": litert_torch.signature(
            "embedder", Embedder(table).eval(), sample_kwargs={"token_ids": torch.zeros(1, 1, dtype=torch.int32)}
        ),
    }
    paths = {name: folder / f"{name}.tflite" for name in converters}
    for name, converter in converters.items():
        converter.convert().export(str(paths[name]))
    return paths


def pack(
    models: dict[str, Path], tokenizer: Path | None, path: Path, context: int = CONTEXT, *, metadata: bool = True
) -> Path:
    """Pack `models` with LiteRT-LM's builder; without a tokenizer or metadata section where told so."""
    builder = litertlm_builder.LitertLmFileBuilder()
    builder.add_system_metadata(
        litertlm_builder.Metadata(key="Authors", value="somebody else", dtype=litertlm_builder.DType.STRING)
    )
    if metadata:
        about = llm_metadata_pb2.LlmMetadata()
        about.start_token.token_str = "<bos>"
        about.stop_tokens.add().token_str = STOP_TEXT
        about.max_num_tokens = context
        about.llm_model_type.generic_model.SetInParent()
        message = path.with_suffix(".pb")
        message.write_bytes(about.SerializeToString())
        builder.add_llm_metadata(str(message))
    if tokenizer:
        builder.add_hf_tokenizer(str(tokenizer))
    for name, model in models.items():
        builder.add_tflite_model(str(model), getattr(litertlm_builder.TfLiteModelType, name.upper()))
    with path.open("w+b") as file:
        builder.build(file)
    return path
