"""What a folder that is no checkpoint holds instead: named, with the step that makes a checkpoint of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD = re.compile(r"model-(\d+)-of-(\d+)\.safetensors")
_TRAINER_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
# What PEFT calls the tensors of a model that it has wrapped and not merged.
_UNMERGED = re.compile(r"\.(lora_(A|B|embedding_A|embedding_B|magnitude_vector)|base_layer|modules_to_save)(\.|$)")


def is_adapter(folder: Path) -> bool:
    """Does `folder` hold a PEFT adapter and no weights of a model? Some trainers add the base's config.json."""
    weights = (folder / SINGLE).is_file() or (folder / INDEX).is_file() or bool(lone_shards(folder))
    return (folder / ADAPTER_CONFIG).is_file() and not weights


def lone_shards(folder: Path) -> list[Path]:
    """`model-00001-of-0000N.safetensors`, all that are there, by number."""
    return sorted(path for path in folder.glob("model-*.safetensors") if _SHARD.fullmatch(path.name))


def missing_shards(shards: Iterable[Path]) -> list[str]:
    """Names that the numbering of `shards` promises and that are not among them."""
    names = {path.name for path in shards}
    promised = set()
    for name in names:
        if found := _SHARD.fullmatch(name):
            width, count = len(found[1]), int(found[2])
            promised |= {f"model-{n:0{width}}-of-{found[2]}.safetensors" for n in range(1, count + 1)}
    return sorted(promised - names)


def what_it_is(folder: Path) -> str | None:
    """What `folder` holds in place of a checkpoint and what to do, as the rest of a sentence; None if unknown."""
    names = sorted(path.name for path in folder.iterdir())
    for explain in (_adapter, _trainer_output, _deepspeed, _fsdp, _gguf, _consolidated, _pickle):
        if found := explain(folder, names):
            return found
    return None


def unmerged_peft(names: Iterable[str]) -> str | None:
    """The first tensor name that only a model wrapped by PEFT has, such as `q_proj.base_layer.weight`; or None."""
    return next((name for name in sorted(names) if _UNMERGED.search(name)), None)


def _adapter(folder: Path, names: list[str]) -> str | None:
    if ADAPTER_WEIGHTS in names or ADAPTER_CONFIG in names:
        return f"this is a PEFT adapter, not a whole model: give the model it was trained on, and --adapter {folder}"
    return None


def _trainer_output(folder: Path, names: list[str]) -> str | None:
    steps = {int(found[1]): name for name in names if (found := _TRAINER_CHECKPOINT.fullmatch(name))}
    if steps:
        newest = folder / steps[max(steps)]
        how = f"give its base model and --adapter {newest}" if is_adapter(newest) else f"give the newest: {newest}"
        return f"this is a trainer's output folder with {len(steps)} checkpoints in it: {how}"
    if "trainer_state.json" in names and not any(name.endswith(".safetensors") for name in names):
        return "this is a trainer's state (trainer_state.json) without a model: save it with trainer.save_model()"
    return None


def _deepspeed(folder: Path, names: list[str]) -> str | None:
    if "zero_to_fp32.py" in names or any(re.fullmatch(r"global_step\d+", name) for name in names):
        return (
            "these are DeepSpeed ZeRO shards: gather them with"
            " `python zero_to_fp32.py . FOLDER --safe_serialization`, and put the base's config and tokenizer beside"
        )
    return None


def _fsdp(folder: Path, names: list[str]) -> str | None:
    inside = [path.name for path in folder.glob("*/*.distcp")] + [n for n in names if n.endswith(".distcp")]
    if inside or any(name.startswith("pytorch_model_fsdp") for name in names):
        return (
            "these are FSDP shards (torch.distributed.checkpoint): gather them with"
            " `accelerate merge-weights SHARDS FOLDER`, and put the base's config and tokenizer beside"
        )
    return None


def _gguf(folder: Path, names: list[str]) -> str | None:
    found = next((name for name in names if name.lower().endswith(".gguf")), None)
    return gguf_advice(found) if found else None


def gguf_advice(name: str) -> str:
    """What to do with a GGUF file."""
    return (
        f"{name} is llama.cpp's format, mostly quantized already:"
        " give the Hugging Face checkpoint that it was made from (config.json and safetensors)"
    )


def _consolidated(folder: Path, names: list[str]) -> str | None:
    found = next((name for name in names if re.fullmatch(r"consolidated.*\.(pth|pt|safetensors)", name)), None)
    if found:
        return f"{found} has another layout than transformers': convert it to a transformers checkpoint first"
    return None


def _pickle(folder: Path, names: list[str]) -> str | None:
    found = next(
        (name for name in names if name.endswith((".bin", ".pt", ".pth")) and "training_args" not in name), None
    )
    if found:
        return (
            f"{found} is a pickle, which is never read: load it with transformers where you trust it,"
            " and save it with save_pretrained(), which writes safetensors"
        )
    return None
