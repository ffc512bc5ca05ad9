"""Checkpoints in every form that people have them give the same weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gemma_mtp.export.checkpoint.config import TargetConfig
from gemma_mtp.export.checkpoint.files import Checkpoint, describe_left_out
from gemma_mtp.export.checkpoint.read_config import read_target_config
from gemma_mtp.export.checkpoint.values import read_weight
from gemma_mtp.export.checkpoint.weights import Weight, decode_weights, embedder_weights, per_layer_embedder_weights
from tests.conftest import TARGET
from tests.support import oracle


def all_weights(config: TargetConfig) -> list[Weight]:
    return [*decode_weights(config), *embedder_weights(config), *per_layer_embedder_weights(config)]


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A random target whose values bfloat16 and float16 hold exactly, as a float32 checkpoint, and its tensors."""
    target = oracle.random_target()
    paths = oracle.save_pair(target, oracle.random_drafter(target), tmp_path, TARGET / "tokenizer.json")
    path = paths[0] / "model.safetensors"
    tensors = {name: (tensor * 64).round().clamp(-127, 127) / 64 for name, tensor in load_file(path).items()}
    save_file(tensors, path)
    return paths[0], tensors


def write_dtype(dtype: torch.dtype) -> Callable[[Path, dict[str, torch.Tensor]], None]:
    def write(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
        save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, folder / "model.safetensors")

    return write


def write_sharded(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for index, (name, tensor) in enumerate(tensors.items()):
        shard = f"model-0000{index % 3 + 1}-of-00003.safetensors"
        weight_map[name] = shard
        known = load_file(folder / shard) if (folder / shard).exists() else {}
        save_file({**known, name: tensor}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def write_text_only(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    renamed = {name.replace("model.language_model.", "model."): tensor for name, tensor in tensors.items()}
    save_file(renamed, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())["text_config"]
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["Gemma4ForCausalLM"]}))


def write_multimodal(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    towers = {
        "model.vision_tower.encoder.layers.0.input_layernorm.weight": torch.ones(3),
        "model.audio_tower.layers.0.input_layernorm.weight": torch.ones(4),
        "model.embed_vision.embedding_projection.weight": torch.ones(2, 2),
        "model.language_model.layers.2.self_attn.k_proj.weight": torch.ones(16, 48),
        "model.language_model.layers.3.self_attn.v_proj.weight": torch.ones(32, 48),
    }
    save_file({**tensors, **towers}, folder / "model.safetensors")


def write_as_saved(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """transformers' own form: head sizes in per_layer_config."""
    assert "per_layer_config" in json.loads((folder / "config.json").read_text())["text_config"]


def write_global_head_dim(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """The released checkpoints' form of the same."""
    config = json.loads((folder / "config.json").read_text())
    del config["text_config"]["per_layer_config"]
    config["text_config"]["global_head_dim"] = 32
    (folder / "config.json").write_text(json.dumps(config))


FORMS = {
    "bf16": write_dtype(torch.bfloat16),
    "fp16": write_dtype(torch.float16),
    "fp32": write_dtype(torch.float32),
    "sharded": write_sharded,
    "text_only": write_text_only,
    "multimodal": write_multimodal,
    "per_layer_config": write_as_saved,
    "global_head_dim": write_global_head_dim,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_weights(form: str, saved: tuple[Path, dict[str, torch.Tensor]]) -> None:
    folder, tensors = saved
    FORMS[form](folder, tensors)
    checkpoint = Checkpoint(str(folder))
    config = read_target_config(checkpoint.config, "config.json")
    weights = all_weights(config)
    checkpoint.check(weights)
    for weight in weights:
        blocks = list(read_weight(checkpoint, config, weight, block_bytes=10_000))
        assert weight.source is None or all(block.nbytes <= 10_000 for block in blocks)
        values = np.concatenate(blocks)
        assert values.dtype == np.float32
        if weight.source:
            np.testing.assert_array_equal(values, tensors[f"model.language_model.{weight.source}"].numpy())


def test_towers_and_unused_kv_weights_are_named(saved: tuple[Path, dict[str, torch.Tensor]]) -> None:
    folder, tensors = saved
    write_multimodal(folder, tensors)
    checkpoint = Checkpoint(str(folder))
    config = read_target_config(checkpoint.config, "config.json")
    lines = describe_left_out(checkpoint.left_out(all_weights(config)))
    assert lines == [
        "2 unused k/v tensors of 2 KV-sharing layers",
        "1 tensors of audio_tower",
        "1 tensors of embed_vision",
        "1 tensors of vision_tower",
    ]


def test_released_shapes_are_read_from_their_configurations() -> None:
    """E2B's and E4B's published configurations give the shapes that MODELS' parameter counts follow from."""
    common = {
        "model_type": "gemma4_text",
        "vocab_size": 262_144,
        "num_attention_heads": 8,
        "head_dim": 256,
        "global_head_dim": 512,
        "sliding_window": 512,
        "final_logit_softcapping": 30.0,
    }
    e2b = {
        **common, "hidden_size": 1536, "intermediate_size": 6144, "use_double_wide_mlp": True, "num_hidden_layers": 35,
        "num_kv_shared_layers": 20, "num_key_value_heads": 1,
        "layer_types": (["sliding_attention"] * 4 + ["full_attention"]) * 7,
    }  # fmt: skip
    e4b = {
        **common, "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 42, "num_kv_shared_layers": 18,
        "num_key_value_heads": 2,
    }  # fmt: skip
    for raw, parameters, read in ((e2b, 4_628_569_379, (13, 14)), (e4b, 7_463_013_418, (22, 23))):
        config = read_target_config({"model_type": "gemma4", "text_config": raw}, "config.json")
        shapes = {weight.source: weight.source_shape for weight in all_weights(config) if weight.source}
        assert sum(int(np.prod(shape)) for shape in shapes.values()) == parameters
        assert tuple(config.last_own_layer(kind) for kind in ("sliding_attention", "full_attention")) == read
