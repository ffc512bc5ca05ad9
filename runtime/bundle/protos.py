# pyright: reportAttributeAccessIssue=false
"""LiteRT-LM's metadata messages; their generated modules come without type stubs, so they are named once, here."""

from __future__ import annotations

from typing import Any

from litert_lm_builder.runtime.proto import executor_metadata_pb2, llm_metadata_pb2, sampler_params_pb2

LlmMetadata: Any = llm_metadata_pb2.LlmMetadata
ExecutorMetadata: Any = executor_metadata_pb2.ExecutorMetadata
StateBuffer: Any = executor_metadata_pb2.StateBuffer
ATTENTION_MASK_TYPE_CAUSAL: int = executor_metadata_pb2.ATTENTION_MASK_TYPE_CAUSAL
SamplerParameters: Any = sampler_params_pb2.SamplerParameters
