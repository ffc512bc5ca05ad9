"""Values that training left on a lattice of 4 bits in blocks of 32: found, and kept exactly where LiteRT can."""

from __future__ import annotations

import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gemma_mtp.export.checkpoint.pair import open_pair
from gemma_mtp.export.checkpoint.quantized.on_lattice import BLOCK, lattice_note, look
from gemma_mtp.export.checkpoint.weights import decode_weights, drafter_weights
from gemma_mtp.export.parity import open_oracle
from gemma_mtp.quantize.formats import storage
from gemma_mtp.quantize.lattice import find_lattice
from gemma_mtp.quantize.tensors import dequantize, store
from gemma_mtp.runtime.bundle.constants import read_constants
from gemma_mtp.runtime.parity.options import VerifyOptions
from gemma_mtp.runtime.parity.verify import verify
from gemma_mtp.runtime.parity.weights.stored import dequantized
from gemma_mtp.runtime.stock import run_stock
from gemma_mtp.runtime.text.prompts import Prompt
from tests.conftest import DRAFTER, TARGET, Exports

OPTIONS = VerifyOptions((Prompt(text="def area(self):"),), max_tokens=8, probe_tokens=40, stock=False, threads=2)
LATTICE = storage("int4_block32", "lattice")
BLOCKS = 4096


def bfloat16(values: np.ndarray) -> np.ndarray:
    return values.astype(ml_dtypes.bfloat16).astype(np.float32)


def scales(dtype: type) -> np.ndarray:
    values = np.random.default_rng(1).uniform(0.001, 0.02, (BLOCKS, 1)).astype(np.float32)
    return values.astype(dtype).astype(np.float32)


def codes(least: int, most: int) -> np.ndarray:
    return np.random.default_rng(0).integers(least, most + 1, (BLOCKS, BLOCK)).astype(np.float32)


def kept(blocks: np.ndarray) -> np.ndarray:
    """What a bundle's codes and scales stand for."""
    rows = blocks.reshape(-1, 4 * BLOCK)
    return dequantize(store(rows, LATTICE), LATTICE, rows.shape).reshape(blocks.shape)


@pytest.mark.parametrize("reach", [(-8, 7), (-7, 7), (-3, 2), (0, 1)])
def test_lattice_of_bfloat16_is_recovered_bit_for_bit(reach: tuple[int, int]) -> None:
    values = bfloat16(codes(*reach) * scales(ml_dtypes.bfloat16))
    found = find_lattice(values, 4, half=True)
    assert found.exact.all()
    # bfloat16 rounds a product of its own numbers, so that is what equals the checkpoint's value.
    assert np.array_equal(bfloat16(kept(values)), values)


def test_lattice_of_float16_scales_is_recovered() -> None:
    """Rounding to bfloat16 hides some scales; the others come back bit for bit."""
    values = bfloat16(codes(-8, 7) * scales(np.float16))
    exact = find_lattice(values, 4, half=True).exact
    assert exact.mean() > 0.99
    assert np.array_equal(bfloat16(kept(values))[exact], values[exact])
    assert np.abs(kept(values) - values).max() < 0.01 * np.abs(values).max()


def test_values_on_no_lattice_are_not_called_so() -> None:
    values = bfloat16(np.random.default_rng(2).standard_normal((BLOCKS, BLOCK)).astype(np.float32))
    assert not find_lattice(values, 4, half=True).exact.any()
    off = np.sqrt(np.square(kept(values) - values).mean() / np.square(values).mean())
    assert off < 0.12  # Rounded as well as 4 bits allow.


def q4_0(values: np.ndarray) -> np.ndarray:
    """Blocks as llama.cpp rounds them (quantize_row_q4_0_ref): the scale is the signed extremum over -8."""
    extremes = np.take_along_axis(values, np.abs(values).argmax(axis=1)[:, None], axis=1)
    step = (extremes / -8).astype(np.float16).astype(np.float32)
    return (np.clip(np.floor(values / step + 8.5), 0, 15) - 8) * step


def test_blocks_that_need_a_code_of_eight_are_counted_and_rounded() -> None:
    values = bfloat16(q4_0(np.random.default_rng(3).standard_normal((BLOCKS, BLOCK)).astype(np.float32)))
    extremes = np.take_along_axis(values, np.abs(values).argmax(axis=1)[:, None], axis=1)[:, 0]
    exact = find_lattice(values, 4, half=True).exact
    assert not exact[extremes > 0].any()
    assert exact[extremes < 0].mean() > 0.99
    assert find_lattice(-values, 4, half=True).exact[extremes > 0].mean() > 0.99
    off = (kept(values) - values)[~exact]
    assert np.sqrt(np.square(off).mean() / np.square(values).mean()) < 0.06


def on_lattice(source: Path, folder: Path) -> Path:
    """A copy of a checkpoint whose layers' matrices lie on a lattice with positive scales, in bfloat16."""
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if ".layers." in name and tensor.ndim == 2 and not tensor.shape[1] % BLOCK:
            blocks = tensor.float().numpy().reshape(-1, BLOCK)
            step = bfloat16(np.abs(blocks).max(axis=1, keepdims=True) / 7)
            rounded = np.clip(np.rint(blocks / np.maximum(step, 1e-9)), -8, 7) * step
            tensors[name] = torch.from_numpy(rounded.reshape(tensor.shape)).to(torch.bfloat16)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def lattice_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("lattice")
    return on_lattice(TARGET, folder / "target"), on_lattice(DRAFTER, folder / "drafter")


def test_export_says_what_formats_would_change(lattice_pair: tuple[Path, Path]) -> None:
    pair = open_pair(*map(str, lattice_pair))
    found = look(pair.target, decode_weights(pair.target_config))
    assert found is not None
    assert found.share == found.kept == 1
    assert found.errors["q4_0"] < 1e-2 < found.errors["int4"]
    note = lattice_note("target", found)
    assert note is not None
    assert "100% of its matrices' blocks of 32 lie on a lattice of 4 bits" in note
    assert "keeps 100% of them exactly. What recipes change" in note
    assert look(pair.drafter, drafter_weights(pair.drafter_config, 1)) is not None
    plain = open_pair(str(TARGET), str(DRAFTER))
    assert lattice_note("target", look(plain.target, decode_weights(plain.target_config))) is None


def test_bundle_holds_the_lattice(exports: Exports, lattice_pair: tuple[Path, Path]) -> None:
    bundle = exports("lattice", *lattice_pair, weights="q4_0", backends=("cpu",))
    tensors = load_file(lattice_pair[0] / "model.safetensors")
    content = memoryview((bundle / "prefill_decode.tflite").read_bytes())
    compared = 0
    for constant in read_constants(content, "prefill_decode").constants:
        if constant.quantization and constant.quantization.block:
            truth = tensors.get(f"model.language_model.{constant.name}")
            if truth is not None and ".layers." in f".{constant.name}" and not truth.shape[1] % BLOCK:
                found = dequantized(constant, 0, constant.shape[0])
                assert torch.equal(found.to(torch.bfloat16), truth), constant.name
                compared += 1
    assert compared == 60
    report = verify(bundle, open_oracle(open_pair(*map(str, lattice_pair))), OPTIONS)
    assert report.passed, report.summary()
    prompts = ["def area(self):", "class Stack:\n    def __init__(self):"]
    off, on = (run_stock(bundle / "model.litertlm", prompts, speculative=flag) for flag in (False, True))
    assert all(second.startswith(first) for first, second in zip(off.texts, on.texts, strict=True))
