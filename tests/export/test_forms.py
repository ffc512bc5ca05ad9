"""Forms in which people have a model: what can be read is, and of others reason and next step are said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from gemma_mtp.export.checkpoint.files import Checkpoint
from gemma_mtp.export.checkpoint.pair import open_pair
from gemma_mtp.runtime.errors import UserError
from tests.conftest import TARGET
from tests.export.test_checkpoint import all_weights, write_sharded
from tests.support import oracle

DECODER = "model.language_model."


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    target = oracle.random_target()
    folder = tmp_path_factory.mktemp("forms")
    return oracle.save_pair(target, oracle.random_drafter(target), folder, TARGET / "tokenizer.json")


@pytest.fixture
def target(pristine: tuple[Path, Path], tmp_path: Path) -> Path:
    """A good target in a folder that a test may spoil."""
    return Path(shutil.copytree(pristine[0], tmp_path / "target"))


Refused = Callable[..., str]


@pytest.fixture
def refused(pristine: tuple[Path, Path], target: Path) -> Refused:
    """What is said of the target, or of another source."""

    def run(source: Path = target) -> str:
        with pytest.raises(UserError) as error:
            _open_and_check(source, pristine[1])
        return str(error.value)

    return run


def _open_and_check(target: Path, drafter: Path) -> None:
    pair = open_pair(str(target), str(drafter))
    pair.target.check(all_weights(pair.target_config))


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def only(folder: Path, *names: str) -> None:
    """Leave the folder with files of these names, empty ones."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


PREFIXES = {"": "text", "model.": "text", "model.model.": "text", "language_model.": "whole", DECODER: "whole"}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_that_transformers_accepts(prefix: str, target: Path) -> None:
    tensors = tensors_of(target)
    save_file(
        {n.replace(DECODER, prefix): t for n, t in tensors.items()}, target / "model.safetensors", {"format": "pt"}
    )
    if PREFIXES[prefix] == "text":
        text = json.loads((target / "config.json").read_text())["text_config"]
        (target / "config.json").write_text(json.dumps({**text, "architectures": ["Gemma4ForCausalLM"]}))
    model = AutoModelForCausalLM.from_pretrained(target).eval()
    checkpoint = Checkpoint(str(target))
    for name in ("embed_tokens.weight", "layers.3.mlp.up_proj.weight", "layers.0.layer_scalar"):
        assert torch.equal(checkpoint.read(name), model.state_dict()[_in_model(model, name)])


def _in_model(model: Any, name: str) -> str:
    return next(full for full in model.state_dict() if full.endswith(f".{name}"))


@pytest.mark.parametrize("wrapper", ["language_model.model.", "_orig_mod.model.language_model."])
def test_other_prefixes_lose_neither_weights_nor_head(wrapper: str, target: Path) -> None:
    """transformers does not load them; their weights are plain nevertheless."""
    tensors = tensors_of(target)
    head = torch.randn_like(tensors[f"{DECODER}embed_tokens.weight"])
    renamed = {name.replace(DECODER, wrapper): tensor for name, tensor in tensors.items()}
    save_file({**renamed, f"{wrapper.split('.')[0]}.lm_head.weight": head}, target / "model.safetensors")
    checkpoint = Checkpoint(str(target))
    assert torch.equal(checkpoint.read("lm_head.weight"), head)
    assert torch.equal(checkpoint.read("norm.weight"), tensors[f"{DECODER}norm.weight"])


def test_shards_without_an_index(target: Path, refused: Refused) -> None:
    tensors = tensors_of(target)
    write_sharded(target, tensors)
    (target / "model.safetensors.index.json").unlink()
    assert torch.equal(Checkpoint(str(target)).read("norm.weight"), tensors[f"{DECODER}norm.weight"])
    (target / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors: no such file" in (said := refused())
    assert "1 of 3 shards are missing" in said


def test_index_that_names_missing_shards(target: Path, refused: Refused) -> None:
    write_sharded(target, tensors_of(target))
    for number in (2, 3):
        (target / f"model-0000{number}-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors: no such file, though" in (said := refused())
    assert "as do 1 others" in said


def test_tensor_in_two_shards(target: Path, refused: Refused) -> None:
    tensors = tensors_of(target)
    write_sharded(target, tensors)
    path, name = target / "model-00002-of-00003.safetensors", f"{DECODER}norm.weight"
    save_file({**load_file(path), name: tensors[name]}, path)
    other = target / "model-00003-of-00003.safetensors"
    save_file({**load_file(other), name: tensors[name] * 2}, other)
    assert f"holds {name}, as does" in refused()


def test_first_missing_tensor_is_named(target: Path, refused: Refused) -> None:
    tensors = tensors_of(target)
    for layer in (3, 1):
        tensors.pop(f"{DECODER}layers.{layer}.mlp.up_proj.weight")
    save_file(tensors, target / "model.safetensors")
    assert f"tensor {DECODER}layers.1.mlp.up_proj.weight is missing" in refused()


def test_unmerged_peft_model(pristine: tuple[Path, Path], target: Path, refused: Refused) -> None:
    model = AutoModelForCausalLM.from_pretrained(pristine[0])
    state = get_peft_model(model, LoraConfig(target_modules=["q_proj"])).state_dict()
    state = {name.removeprefix("base_model.model."): tensor.clone() for name, tensor in state.items()}
    save_file({n: t for n, t in state.items() if n != "lm_head.weight"}, target / "model.safetensors")
    assert "belongs to a PEFT model that was not merged: save what merge_and_unload() returns" in refused()


FOLDERS: dict[str, tuple[tuple[str, ...], str]] = {
    "trainer's output": (
        ("checkpoint-90/config.json", "checkpoint-200/config.json", "training_args.bin"),
        "a trainer's output folder with 2 checkpoints in it: give the newest: {folder}/checkpoint-200",
    ),
    "trainer's output of adapters": (
        ("checkpoint-9/adapter_config.json", "checkpoint-10/adapter_config.json"),
        "give its base model and --adapter {folder}/checkpoint-10",
    ),
    "trainer's state": (
        ("trainer_state.json", "optimizer.pt"),
        "a trainer's state (trainer_state.json) without a model",
    ),
    "DeepSpeed": (("zero_to_fp32.py", "global_step100/x.pt", "latest"), "python zero_to_fp32.py . FOLDER"),
    "DeepSpeed with a config": (("config.json", "global_step100/x.pt"), "these are DeepSpeed ZeRO shards"),
    "FSDP": (("pytorch_model_fsdp_0/__0_0.distcp",), "accelerate merge-weights"),
    "torch.distributed": (("config.json", "__0_0.distcp", ".metadata"), "these are FSDP shards"),
    "GGUF": (("gemma-4-E2B-it-Q4_K_M.gguf",), "gemma-4-E2B-it-Q4_K_M.gguf is llama.cpp's format"),
    "GGUF with a config": (("config.json", "model.gguf"), "model.gguf is llama.cpp's format"),
    "pickle": (("config.json", "pytorch_model.bin", "training_args.bin"), "pytorch_model.bin is a pickle"),
    "consolidated": (("config.json", "consolidated.00.pth"), "has another layout than transformers'"),
    "nothing": (("notes.txt",), "no such file; the folder must hold a Hugging Face checkpoint"),
}


@pytest.mark.parametrize("form", FOLDERS)
def test_folder_that_is_no_checkpoint(form: str, target: Path, refused: Refused) -> None:
    names, reason = FOLDERS[form]
    config = json.loads((target / "config.json").read_text())
    only(target, *names)
    if "config.json" in names:
        (target / "config.json").write_text(json.dumps(config))
    assert reason.format(folder=target) in refused()


def test_file_in_place_of_a_folder(target: Path, refused: Refused) -> None:
    (target / "model.gguf").write_bytes(b"GGUF")
    assert "model.gguf is llama.cpp's format" in refused(target / "model.gguf")
    assert f"give its folder, {target}" in refused(target / "model.safetensors")


def test_adapter_in_place_of_a_drafter(target: Path, tmp_path: Path) -> None:
    only(tmp_path / "adapter", "adapter_config.json", "adapter_model.safetensors")
    with pytest.raises(UserError, match=f"this is a PEFT adapter, not a whole model.*--adapter {tmp_path / 'adapter'}"):
        open_pair(str(target), str(tmp_path / "adapter"))


@pytest.mark.parametrize(
    ("model_type", "said"),
    [
        ("gemma4_unified", "Gemma 4 12B"),
        ("gemma3n", "Gemma 3n, which has no MTP drafter"),
        ("gemma3_text", "Gemma 3, which has no MTP drafter"),
        ("llama", "model_type is 'llama', expected 'gemma4'"),
    ],
)
def test_other_models_are_named(model_type: str, said: str, target: Path, refused: Refused) -> None:
    edit(target / "config.json", model_type=model_type)
    assert said in refused()


def test_resized_embeddings(pristine: tuple[Path, Path], target: Path, refused: Refused) -> None:
    model = AutoModelForCausalLM.from_pretrained(pristine[0])
    model.resize_token_embeddings(oracle.VOCABULARY + 16)
    model.save_pretrained(target)
    said = refused()
    assert "vocab_size is 2048, but the target has 2064: tokens were added when the target was fine-tuned" in said
    assert "resize_token_embeddings()" in said


def test_resized_embeddings_of_which_the_configuration_does_not_know(target: Path, refused: Refused) -> None:
    tensors = tensors_of(target)
    name = f"{DECODER}embed_tokens.weight"
    save_file({**tensors, name: torch.cat([tensors[name], tensors[name][:2]])}, target / "model.safetensors")
    assert "tokens were added or removed" in (said := refused())
    assert "has 2050 rows, but config.json says 2048" in said


def test_per_layer_embedding_that_was_not_resized(target: Path, refused: Refused) -> None:
    config = json.loads((target / "config.json").read_text())
    config["text_config"]["vocab_size_per_layer_input"] = 2000
    (target / "config.json").write_text(json.dumps(config))
    assert "vocab_size_per_layer_input is 2000: the token embedding was resized" in refused()
