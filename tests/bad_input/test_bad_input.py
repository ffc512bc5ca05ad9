"""Everything a person can get wrong: one line that says what and what to do, exit code 2, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gemma_mtp.export.cli import main as cli
from tests.conftest import CONTEXT, DRAFTER, PREFILL, TARGET, Exports
from tests.support import oracle


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    target = oracle.random_target()
    folder = tmp_path_factory.mktemp("pristine")
    return oracle.save_pair(target, oracle.random_drafter(target), folder, TARGET / "tokenizer.json")


@pytest.fixture
def pair(pristine: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """A good pair in folders that a test may spoil."""
    for folder in pristine:
        shutil.copytree(folder, tmp_path / folder.name)
    return tmp_path / "target", tmp_path / "drafter"


Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys) -> Refused:
    """Runs the export, checks exit code and leftovers, and returns the one line that was printed."""

    def run(*extra: str, target: str | Path = pair[0], drafter: str | Path = pair[1], out: Path | None = None) -> str:
        where = out or tmp_path / "new" / "out"
        before = sorted(tmp_path.rglob("*"))
        monkeypatch.setattr(
            sys, "argv", ["gemma-mtp-export", "export", str(target), str(drafter), "-o", str(where), *extra]
        )
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == 2
        assert sorted(tmp_path.rglob("*")) == before
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error: ")]
        assert len(lines) == 1
        return lines[0]

    return run


def edit(path: Path, **changes: object) -> None:
    """Change keys of a JSON file; dotted with __, removed where None."""
    content = json.loads(path.read_text())
    for key, value in changes.items():
        *parents, last = key.split("__")
        place = content
        for parent in parents:
            place = place[parent]
        if value is None:
            place.pop(last)
        else:
            place[last] = value
    path.write_text(json.dumps(content))


def change_tensor(folder: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    changed = change(tensors.pop(name))
    if changed is not None:
        tensors[name] = changed.contiguous()
    save_file(tensors, path)


GATE = "model.language_model.layers.1.mlp.gate_proj.weight"


def test_truncated_weights(refused: Refused, pair) -> None:
    path = pair[0] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    line = refused()
    assert str(path) in line
    assert "not a whole safetensors file" in line


def test_corrupt_weights(refused: Refused, pair) -> None:
    path = pair[1] / "model.safetensors"
    path.write_bytes(b"\xff" * 500)
    assert f"{path}: not a whole safetensors file" in refused()


def test_missing_tensor(refused: Refused, pair) -> None:
    change_tensor(pair[0], GATE, lambda tensor: None)
    assert f"tensor {GATE} is missing" in refused()


def test_misshapen_tensor(refused: Refused, pair) -> None:
    change_tensor(pair[0], GATE, lambda tensor: tensor.T)
    assert f"{GATE} has shape [48, 64], expected [64, 48]" in refused()


def test_tensor_of_unreadable_dtype(refused: Refused, pair) -> None:
    change_tensor(pair[0], GATE, lambda tensor: tensor.to(torch.uint8))
    assert f"{GATE} is stored as U8, expected BF16, F16 or F32" in refused()


@pytest.fixture
def small_pair(tmp_path: Path, pair: tuple[Path, Path]) -> tuple[Path, Path]:
    """The shipped pair, in folders that a test may spoil; its graphs are traced for other tests anyway."""
    for folder, source in zip(pair, (TARGET, DRAFTER), strict=True):
        shutil.rmtree(folder)
        shutil.copytree(source, folder)
    return pair


def traced_before(exports: Exports) -> tuple[str, ...]:
    """Options of the exports that other tests share, so that what is found only while binding is found soon."""
    lengths = ",".join(map(str, PREFILL))
    cache = str(exports.skeletons)
    return ("--context-length", str(CONTEXT), "--prefill-lengths", lengths, "--skeleton-cache", cache)


def test_tensor_with_nan(small_pair, small_fp32, refused: Refused, exports: Exports) -> None:
    def spoil(tensor: torch.Tensor) -> torch.Tensor:
        tensor[0, 0] = float("nan")
        return tensor

    change_tensor(small_pair[0], "model.language_model.embed_tokens.weight", spoil)
    assert "embed_tokens.weight holds NaN or infinity" in refused(*traced_before(exports))


def test_token_ordering_that_is_no_permutation(small_pair, small_fp32, refused: Refused, exports: Exports) -> None:
    change_tensor(small_pair[1], "masked_embedding.token_ordering", torch.zeros_like)
    assert "token_ordering is not a permutation of the 2048 token ids" in refused(*traced_before(exports))


def test_missing_config(refused: Refused, pair) -> None:
    (pair[0] / "config.json").unlink()
    assert f"{pair[0] / 'config.json'}: no such file" in refused()


def test_config_that_is_no_json(refused: Refused, pair) -> None:
    (pair[1] / "config.json").write_text("{")
    assert "not readable as JSON" in refused()


def test_target_given_as_drafter(refused: Refused, pair) -> None:
    assert "this is a target, expected an MTP drafter" in refused(drafter=pair[0])


def test_drafter_given_as_target(refused: Refused, pair) -> None:
    assert "this is an MTP drafter" in refused(target=pair[1], drafter=pair[0])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"backbone_hidden_size": 64}, "backbone_hidden_size is 64, but the target has 48"),
        ({"text_config__vocab_size": 4096}, "vocab_size is 4096, but the target has 2048"),
        ({"text_config__head_dim": 32}, "sliding_attention head_dim is 32, but the target has 16"),
        ({"text_config__num_key_value_heads": 2}, "num_key_value_heads is 2, but the target has 1"),
        ({"text_config__layer_types": ["sliding_attention"] * 4}, "kinds of layer_types is ['sliding_attention']"),
        ({"text_config__layer_types": ["chunked_attention"] * 4}, "layer_types must name 4 layers"),
        ({"text_config__sliding_window": 16}, "sliding_attention window is 16, but the target has 8"),
    ],
)
def test_drafter_of_another_target(changes: dict, reason: str, refused: Refused, pair) -> None:
    edit(pair[1] / "config.json", **changes)
    line = refused()
    assert str(pair[1] / "config.json") in line
    assert reason in line


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"text_config__enable_moe_block": True}, "a mixture of experts (26B-A4B)"),
        ({"text_config__attention_k_eq_v": True}, "attention_k_eq_v is set (31B)"),
        ({"text_config__num_kv_shared_layers": 0}, "no KV-sharing layers"),
        ({"text_config__hidden_size_per_layer_input": 0}, "no per-layer embeddings"),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "quant_method 'compressed-tensors'"),
        ({"model_type": "gemma3"}, "model_type is 'gemma3' (Gemma 3, which has no MTP drafter), expected 'gemma4'"),
        ({"text_config__hidden_activation": "silu"}, "hidden_activation is 'silu'"),
        ({"text_config__hidden_size": None}, "hidden_size is missing"),
        ({"text_config__num_hidden_layers": -1}, "num_hidden_layers is -1"),
    ],
)
def test_target_that_cannot_be_exported(changes: dict, reason: str, refused: Refused, pair) -> None:
    edit(pair[0] / "config.json", **changes)
    line = refused()
    assert str(pair[0] / "config.json") in line
    assert reason in line


@pytest.mark.parametrize("shard", ["../drafter/model.safetensors", "/etc/passwd"])
def test_index_that_points_outside_its_folder(shard: str, refused: Refused, pair) -> None:
    (pair[0] / "model.safetensors").unlink()
    index = pair[0] / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {GATE: shard}}))
    assert f"{index}: weight_map points to {shard}, outside the checkpoint's folder" in refused()


def test_index_that_names_a_missing_shard(refused: Refused, pair) -> None:
    (pair[0] / "model.safetensors").unlink()
    (pair[0] / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {GATE: "a.safetensors"}}))
    assert f"{pair[0] / 'a.safetensors'}: no such file" in refused()


def test_pickled_weights_are_never_read(refused: Refused, pair) -> None:
    (pair[0] / "model.safetensors").rename(pair[0] / "pytorch_model.bin")
    assert "pytorch_model.bin is a pickle, which is never read" in refused()


def test_missing_tokenizer(refused: Refused, pair) -> None:
    (pair[0] / "tokenizer.json").unlink()
    assert "no tokenizer.json and no tokenizer.model" in refused()


def test_missing_chat_template(refused: Refused, pair) -> None:
    (pair[0] / "chat_template.jinja").unlink()
    assert "no chat template" in refused()


def test_checkpoint_that_is_neither_folder_nor_hub_id(refused: Refused, tmp_path: Path) -> None:
    assert "no/such/folder/here: no such folder" in refused(target="no/such/folder/here")


def test_hub_id_that_cannot_be_had(refused: Refused) -> None:
    line = refused(target="nobody/nothing")
    assert "nobody/nothing: no such folder, and the hub says:" in line


def test_output_folder_that_is_not_empty(refused: Refused, tmp_path: Path) -> None:
    out = tmp_path / "full"
    out.mkdir()
    (out / "keep.txt").write_text("mine")
    assert f"{out}: is not empty" in refused(out=out)
    assert (out / "keep.txt").read_text() == "mine"


def test_output_folder_that_is_a_file(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "is a file; expected a new or empty folder" in refused(out=tmp_path / "file")


def test_output_folder_that_cannot_be_written(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused(out=tmp_path / "file" / "out")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--context-length", "5"), "--context-length: 5, expected 12 to 128"),
        (("--context-length", "4096"), "--context-length: 4096, expected 12 to 128"),
        (("--num-draft-tokens", "0"), "--num-draft-tokens: 0, expected 1 to 15"),
        (("--num-draft-tokens", "99"), "--num-draft-tokens: 99"),
        (("--verify-lengths", "2,0"), "--verify-lengths: 0, expected draft lengths of 1 to 15"),
        (("--verify-lengths", "2;8"), "expected whole numbers with commas between"),
        (("--prefill-lengths", "1000"), "--prefill-lengths: 1000, expected 1 to the context length, 128"),
        (("--prefill-lengths", "31"), "--prefill-lengths: 31 is prime"),
        (("--prefill-lengths", "a,b"), "expected whole numbers with commas between"),
        (("--weights", "int3"), "'int3' is no recipe"),
        (("--wieghts", "int8"), "No such option '--wieghts'"),
    ],
)
def test_options_that_make_no_sense(arguments: tuple[str, ...], reason: str, refused: Refused) -> None:
    assert reason in refused(*arguments)


def test_mistyped_option_gets_a_suggestion(refused: Refused) -> None:
    assert "--weights" in refused("--wieghts", "int8")


@pytest.mark.export
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_leaves_nothing(number: int, pair, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    command = [sys.executable, "-m", "gemma_mtp.export.cli", "export", str(pair[0]), str(pair[1])]
    ignored = {signal.SIGINT: signal.SIG_DFL, signal.SIGTERM: signal.SIG_IGN}
    process = subprocess.Popen(
        [*command, "-o", str(tmp_path / "out")],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
        # A background job starts with SIGINT ignored, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, ignored[number]),
    )
    assert process.stderr
    for line in process.stderr:
        if "Tracing graphs" in line:
            break
    time.sleep(1)
    assert any("unfinished" in path.name for path in tmp_path.iterdir())
    process.send_signal(number)
    rest = process.stderr.read()
    assert process.wait(timeout=30) == 2
    assert "Error: interrupted; nothing was written" in rest
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("content", [b"", b"not a bundle at all", b"LITERTLM" + bytes(50), None])
def test_inspect_refuses_what_is_no_bundle(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    path = tmp_path / "model.litertlm"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(sys, "argv", ["gemma-mtp-export", "inspect", str(path)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith(f"Error: {path}: ")


def test_inspect_refuses_a_truncated_bundle(small_int8: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    path = tmp_path / "model.litertlm"
    path.write_bytes((small_int8 / "model.litertlm").read_bytes()[:-1000])
    monkeypatch.setattr(sys, "argv", ["gemma-mtp-export", "inspect", str(path)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert "it is truncated" in capsys.readouterr().err
