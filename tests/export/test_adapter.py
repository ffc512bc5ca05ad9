"""LoRA adapters are merged as PEFT merges them, and what cannot be merged is refused with the reason."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Gemma4ForCausalLM

from gemma_mtp.export.checkpoint.adapted import AdaptedCheckpoint
from gemma_mtp.export.checkpoint.pair import fine_tune_note, open_pair
from gemma_mtp.export.checkpoint.read_config import read_target_config
from gemma_mtp.export.checkpoint.values import read_weight
from gemma_mtp.export.checkpoint.weights import (
    EMBEDDING,
    HEAD,
    decode_weights,
    embedder_weights,
    per_layer_embedder_weights,
)
from gemma_mtp.export.parity import open_oracle
from gemma_mtp.runtime.errors import UserError
from tests.conftest import DRAFTER, TARGET, Exports
from tests.support import oracle

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
TOKENS = torch.randint(6, oracle.VOCABULARY, (1, 24), generator=torch.Generator().manual_seed(1))
DECODER = "model.language_model."

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's, on tied embeddings.


@pytest.fixture(scope="module")
def base() -> Any:
    return oracle.random_target()


@pytest.fixture(scope="module")
def folders(base, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return oracle.save_pair(
        base, oracle.random_drafter(base), tmp_path_factory.mktemp("base"), TARGET / "tokenizer.json"
    )


def trained(model: Any, folder: Path, seed: int = 0, **settings: Any) -> Any:
    """An adapter on a copy of `model` whose every tensor is as after training, saved in `folder`."""
    wrapped = get_peft_model(copy.deepcopy(model), LoraConfig(**{"r": 4, **settings})).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    wrapped.save_pretrained(folder)
    return wrapped


def opened(folders: tuple[Path, Path], *adapters: Path) -> AdaptedCheckpoint:
    return AdaptedCheckpoint(str(folders[0]), list(map(str, adapters)))


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rename(folder: Path, change: Callable[[str], str]) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({change(name): tensor for name, tensor in load_file(path).items()}, path)


def assert_equals(checkpoint: AdaptedCheckpoint, merged: dict[str, torch.Tensor]) -> None:
    """Every weight that the graphs have, read whole and in blocks."""
    config = read_target_config(checkpoint.config, "config.json")
    weights = [*decode_weights(config), *embedder_weights(config), *per_layer_embedder_weights(config)]
    checkpoint.check(weights)
    for weight in weights:
        if weight.source:
            expected = merged[f"{DECODER}{weight.source}"].numpy()
            (whole,) = read_weight(checkpoint, config, weight)
            np.testing.assert_array_equal(whole, expected, weight.name)
            blocks = np.concatenate(list(read_weight(checkpoint, config, weight, block_bytes=5_000)))
            # A product of fewer rows may be summed in another order.
            np.testing.assert_allclose(blocks, expected, rtol=1e-5, atol=1e-6, err_msg=weight.name)


SETTINGS = {
    "attention": {"target_modules": ATTENTION},
    "all linear layers": {"target_modules": "all-linear", "lora_alpha": 13},
    "a regular expression": {"target_modules": r".*layers\.[02]\..*(q|down)_proj"},
    "rsLoRA": {"target_modules": ATTENTION, "use_rslora": True, "lora_alpha": 5},
    "rank and alpha by module": {
        "target_modules": ATTENTION,
        "rank_pattern": {"q_proj": 2, r"layers\.1\.self_attn\.o_proj": 6},
        "alpha_pattern": {r"^model.language_model.layers.0.self_attn.v_proj": 20, "k_proj": 1},
    },
    "some layers": {"target_modules": ["up_proj"], "layers_to_transform": [1, 3], "layers_pattern": "layers"},
    "excluded modules": {"target_modules": ATTENTION, "exclude_modules": r".*layers\.2.*"},
    "DoRA": {"target_modules": ["q_proj", "gate_proj"], "use_dora": True},
    "whole modules": {"target_modules": ["q_proj"], "modules_to_save": ["input_layernorm", "per_layer_projection"]},
    "the per-layer embedding": {"target_modules": ["q_proj", "embed_tokens_per_layer"]},
    "parameters": {"target_modules": [], "target_parameters": ["q_proj.weight"]},
    "fan_in_fan_out, which PEFT sets back": {"target_modules": ["q_proj"], "fan_in_fan_out": True},
    "MiCA": {"target_modules": ["q_proj"], "init_lora_weights": "mica"},
}


@pytest.mark.parametrize("settings", SETTINGS)
def test_merged_weights_are_pefts(settings: str, base, folders, tmp_path: Path) -> None:
    wrapped = trained(base, tmp_path, **SETTINGS[settings])
    checkpoint = opened(folders, tmp_path)
    assert not checkpoint.has(HEAD)
    merged = wrapped.merge_and_unload().state_dict()
    changed = [name for name, value in base.state_dict().items() if not torch.equal(value, merged[name])]
    assert changed
    assert_equals(checkpoint, merged)


def test_several_adapters_are_merged_one_after_the_other(base, folders, tmp_path: Path) -> None:
    trained(base, tmp_path / "one", seed=1, target_modules=ATTENTION)
    once = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "one").merge_and_unload()
    twice = trained(once, tmp_path / "two", seed=2, target_modules=["q_proj", "up_proj"], use_dora=True)
    merged = twice.merge_and_unload().state_dict()
    assert_equals(opened(folders, tmp_path / "one", tmp_path / "two"), merged)
    with pytest.raises(AssertionError):
        assert_equals(opened(folders, tmp_path / "two", tmp_path / "one"), merged)


def test_adapter_of_the_text_only_class_and_of_an_older_peft(base, folders, tmp_path: Path) -> None:
    text = Gemma4ForCausalLM(base.config.text_config).eval()
    text.load_state_dict({name.replace(DECODER, "model."): value for name, value in base.state_dict().items()})
    wrapped = trained(text, tmp_path, target_modules=ATTENTION)
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in load_file(
        tmp_path / "adapter_model.safetensors"
    )
    merged = {name.replace("model.", DECODER): value for name, value in wrapped.merge_and_unload().state_dict().items()}
    assert_equals(opened(folders, tmp_path), merged)
    rename(tmp_path, lambda name: name.replace(".weight", ".default.weight"))
    assert_equals(opened(folders, tmp_path), merged)


EMBEDDINGS = {
    "embedding": ({"target_modules": ["q_proj", "embed_tokens"]}, True),
    "head": ({"target_modules": ["q_proj", "lm_head"]}, True),
    "embedding, whole": ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, True),
    "head, whole": ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, True),
    "both, whole": ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}, True),
    "both, tied": ({"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True}, True),
    "some tokens": ({"target_modules": ["q_proj"], "trainable_token_indices": [7, 3, int(TOKENS[0, 5])]}, False),
}


@pytest.mark.parametrize("settings", EMBEDDINGS)
def test_embedding_and_head_are_what_was_trained(settings: str, base, folders, tmp_path: Path) -> None:
    """transformers' logits with PEFT's unmerged layers are the oracle: merging would change what is tied."""
    changes, unties = EMBEDDINGS[settings]
    wrapped = trained(base, tmp_path, **changes)
    pair = open_pair(*map(str, folders), adapters=[str(tmp_path)])
    assert pair.target_config.own_head == unties
    with torch.no_grad():
        expected = wrapped(input_ids=TOKENS).logits[0].numpy()
        before = base(input_ids=TOKENS).logits[0].numpy()
    got = open_oracle(pair).run(TOKENS[0].tolist(), range(TOKENS.shape[1])).logits
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(expected - before).max() > 0.05
    for name in (EMBEDDING, HEAD) if unties else (EMBEDDING,):
        # A product of fewer rows may be another kernel's.
        np.testing.assert_allclose(pair.target.read_rows_at(name, [3, 9]), pair.target.read(name)[[3, 9]], atol=1e-6)


def test_oracle_reads_the_merged_target(base, folders, tmp_path: Path) -> None:
    wrapped = trained(base, tmp_path, target_modules="all-linear")
    pair = open_pair(*map(str, folders), adapters=[str(tmp_path)])
    with torch.no_grad():
        expected = wrapped.merge_and_unload()(input_ids=TOKENS).logits[0].numpy()
    got = open_oracle(pair).run(TOKENS[0].tolist(), range(TOKENS.shape[1])).logits
    np.testing.assert_allclose(got, expected, atol=2e-5)


def test_towers_and_shared_kv_are_skipped_and_said(base, folders, tmp_path: Path) -> None:
    trained(base, tmp_path, target_modules=["q_proj"])
    path = tmp_path / "adapter_model.safetensors"
    extra = {}
    for module in (
        "model.vision_tower.encoder.layers.0.self_attn.q_proj.linear",
        f"{DECODER}layers.3.self_attn.k_proj",
    ):
        extra |= {f"base_model.model.{module}.lora_{part}.weight": torch.ones(4, 4) for part in "AB"}
    save_file({**load_file(path), **extra}, path)
    pair = open_pair(*map(str, folders), adapters=[str(tmp_path)])
    said = "\n".join(pair.notes)
    assert "skipping 2 tensors of unused k/v of KV-sharing layers" in said
    assert "skipping 2 tensors of vision_tower" in said
    assert f"with the adapter {tmp_path.name} merged into 4 weights" in said
    assert "the fewer drafted tokens are accepted" in str(fine_tune_note(pair))
    assert fine_tune_note(open_pair(*map(str, folders))) is None


def test_text_files_are_those_of_the_last_adapter_that_brings_some(base, folders, tmp_path: Path) -> None:
    trained(base, tmp_path, target_modules=["q_proj"])
    assert opened(folders, tmp_path).path("tokenizer.json") == folders[0] / "tokenizer.json"
    shutil.copy(TARGET / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    checkpoint = opened(folders, tmp_path)
    assert checkpoint.path("tokenizer.json") == tmp_path / "tokenizer.json"
    assert checkpoint.path("chat_template.jinja") == folders[0] / "chat_template.jinja"
    assert checkpoint.path("config.json") == folders[0] / "config.json"
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert checkpoint.path("chat_template.jinja") == tmp_path / "chat_template.jinja"


REFUSED = {
    "aLoRA": ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens is set"),
    "repeated layers": ({"layer_replication": [[0, 2], [1, 4]]}, "layer_replication is set"),
    "PiSSA": ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'"),
    "LoHa": ({"peft_type": "LOHA"}, "peft_type is 'LOHA', expected 'LORA'"),
    "another rank": ({"r": 16}, "has rank 4, but adapter_config.json gives it 16"),
    "no rank": ({"r": "4"}, "r is '4', expected a whole number"),
    "DoRA without magnitudes": ({"use_dora": True}, "a part is missing"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_cannot_be_merged(case: str, base, folders, tmp_path: Path) -> None:
    changes, reason = REFUSED[case]
    trained(base, tmp_path, target_modules=["q_proj"])
    edit(tmp_path, **changes)
    with pytest.raises(UserError, match=reason.replace("[", r"\[")):
        opened(folders, tmp_path)


BROKEN = {
    "biases": (lambda name: name.replace("lora_A.weight", "lora_B.bias"), "lora_B.bias is of no kind"),
    "nested parameters": (lambda name: name.replace(".lora_", ".base_layer.lora_"), "is of no kind that can be merged"),
    "more layers": (lambda name: name.replace("layers.3.", "layers.7."), "changes layers.7.self_attn.q_proj.weight"),
    "another architecture": (lambda name: name.replace("q_proj", "c_attn"), "which the target does not have"),
    "other shapes": (lambda name: name.replace("q_proj", "o_proj"), "is the adapter another model's"),
    "no products": (lambda name: name.replace("lora_A", "lora_embedding_B"), "both"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_tensors_that_do_not_fit(case: str, base, folders, tmp_path: Path) -> None:
    change, reason = BROKEN[case]
    trained(base, tmp_path, target_modules=["q_proj"])
    rename(tmp_path, change)
    with pytest.raises(UserError, match=reason):
        opened(folders, tmp_path)


def test_tokens_added_in_training_are_the_reason(base, folders, tmp_path: Path) -> None:
    model = copy.deepcopy(base)
    model.resize_token_embeddings(oracle.VOCABULARY + 8)
    trained(model, tmp_path, target_modules=["q_proj", "embed_tokens"])
    with pytest.raises(UserError, match="tokens were added in training"):
        opened(folders, tmp_path)


def test_ia3_and_pickles_are_refused(base, folders, tmp_path: Path) -> None:
    settings = IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])
    get_peft_model(copy.deepcopy(base), settings).save_pretrained(tmp_path / "ia3")
    with pytest.raises(UserError, match="peft_type is 'IA3'"):
        opened(folders, tmp_path / "ia3")
    trained(base, tmp_path / "pickle", target_modules=["q_proj"])
    (tmp_path / "pickle" / "adapter_model.safetensors").rename(tmp_path / "pickle" / "adapter_model.bin")
    with pytest.raises(UserError, match=r"adapter_model\.bin is a pickle, which is never read"):
        opened(folders, tmp_path / "pickle")
    with pytest.raises(UserError, match="this is a whole model: give it as TARGET"):
        opened(folders, folders[0])


def test_adapter_given_as_target(base, folders, tmp_path: Path) -> None:
    trained(base, tmp_path, target_modules=["q_proj"])
    edit(tmp_path, base_model_name_or_path=str(folders[0]))
    pair = open_pair(str(tmp_path), str(folders[1]))
    assert isinstance(pair.target, AdaptedCheckpoint)
    assert f"target: {folders[0]} with the adapter {tmp_path.name} merged" in pair.notes[0]
    for name, reason in ((str(tmp_path / "gone"), "cannot be opened"), (None, "does not name its base model")):
        edit(tmp_path, base_model_name_or_path=name)
        with pytest.raises(UserError, match=f"{reason}.*--adapter {tmp_path}"):
            open_pair(str(tmp_path), str(folders[1]))


def test_export_with_an_adapter_is_the_export_of_what_peft_merged(
    exports: Exports, small_fp32: Path, torch_pair, tmp_path: Path, run
) -> None:
    """Byte for byte; `verify` with the adapter passes, and without it fails."""
    trained(torch_pair[0], tmp_path / "adapter", target_modules="all-linear", lora_alpha=1)
    merged = PeftModel.from_pretrained(copy.deepcopy(torch_pair[0]), tmp_path / "adapter").merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    for path in TARGET.iterdir():
        if path.name not in ("model.safetensors", "config.json"):
            shutil.copy(path, tmp_path / "merged")
    adapted = exports("adapted", adapters=(tmp_path / "adapter",))
    whole = exports("merged", tmp_path / "merged")
    for name in ("prefill_decode.tflite", "model.litertlm"):
        assert (adapted / name).read_bytes() == (whole / name).read_bytes()
    assert (adapted / "prefill_decode.tflite").read_bytes() != (small_fp32 / "prefill_decode.tflite").read_bytes()
    sources = json.loads((adapted / "manifest.json").read_text())["sources"]
    assert [adapter["name"] for adapter in sources["target"]["adapters"]] == ["adapter"]
    assert set(sources["target"]["adapters"][0]["sha256"]) == {"adapter_config.json", "adapter_model.safetensors"}

    quick = ("--no-stock", "--max-tokens", "4", "--probe-tokens", "40", "-q")
    arguments = ("verify", str(adapted), str(TARGET), str(DRAFTER), *quick)
    assert run(*arguments, "--adapter", str(tmp_path / "adapter"))[0] == 0
    code, output, _ = run(*arguments)
    assert code == 1
    assert output.startswith("FAIL, first in files: the checkpoints are those of the manifest")
