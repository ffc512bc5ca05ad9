"""Each recipe on the shipped pair: stock LiteRT-LM writes one text with MTP on and off, and `verify` passes; a fault
that a bundle of few bits can show is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gemma_mtp.export.checkpoint.pair import open_pair
from gemma_mtp.export.parity import open_oracle
from gemma_mtp.runtime.bundle.inspection import inspect_bundle
from gemma_mtp.runtime.parity.options import VerifyOptions
from gemma_mtp.runtime.parity.oracle.oracle import Oracle
from gemma_mtp.runtime.parity.report.report import Report, Verdict
from gemma_mtp.runtime.parity.verify import verify
from gemma_mtp.runtime.stock import run_stock
from gemma_mtp.runtime.text.prompts import Prompt
from tests.conftest import CONTEXT, DRAFTER, TARGET, Exports, HeldOutPrompt
from tests.support.faults import FAULTS, planted
from tests.support.in_place import Sections, with_sections

# Every format of matrices, of tables and of the clustered head's rows is in one of these.
RECIPES = ("fp16", "int4", "mixed", "mobile", "blocks", "narrow")
# In blocks of each size, where rows are wide enough.
BLOCKS = """
schema = 1
rules = [
  {tensors = ["target.per_layer.projection", "drafter.head"], format = "int4"},
  {tensors = ["embedder", "target.attention.[qk]_proj", "drafter.mlp.down_proj"], format = "int4_block64"},
  {tensors = ["target.mlp.down_proj", "drafter.pre_projection"], format = "int4_block128"},
  {tensors = "*", format = "int4_block32"},
]
"""
# What named recipes do not have: a clustered head in two bits, tables in blocks beside a GPU's matrices.
NARROW = """
schema = 1
rules = [
  {tensors = ["drafter.head", "drafter.centroids"], format = "int2"},
  {tensors = ["embedder", "per_layer_embedder"], format = "int4_block32"},
  {tensors = "*", format = "int8"},
]
"""
OWN = {"blocks": (BLOCKS, ("cpu",)), "narrow": (NARROW, ("cpu", "gpu"))}
# Faults of graphs that int8 bundles show as well: those that activations of eight bits do not hide;
# every other one, as all of them are planted into int8 already.
OF_GRAPHS = [name for name, fault in FAULTS.items() if "int8" in fault.weights and fault.stage != "weights"][::2]


@pytest.fixture(scope="module")
def exported(exports: Exports, tmp_path_factory: pytest.TempPathFactory):
    def get(name: str) -> Path:
        if name not in OWN:
            return exports(f"weights-{name}", weights=name)
        text, backends = OWN[name]
        file = tmp_path_factory.mktemp("recipes") / f"{name}.toml"
        file.write_text(text)
        return exports(f"weights-{name}", weights=str(file), backends=backends)

    return get


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return open_oracle(open_pair(str(TARGET), str(DRAFTER)))


@pytest.fixture(scope="module")
def options(prompts: list[HeldOutPrompt]) -> VerifyOptions:
    (prompt, *_) = [prompt for prompt in prompts if len(prompt.tokens) in range(105, CONTEXT - 20)]
    return VerifyOptions((Prompt(text=prompt.text),), max_tokens=8, probe_tokens=100, stock=False, threads=2)


def failed(report: Report) -> dict[str, str]:
    checks = [check for stage in report.stages for check in stage.checks if check.verdict is Verdict.FAIL]
    return {check.name: str(check.value) for check in checks}


@pytest.mark.parametrize("name", RECIPES)
def test_stock_writes_one_text_with_mtp_on_and_off(name: str, exported, prompts: list[HeldOutPrompt]) -> None:
    bundle, texts = exported(name) / "model.litertlm", [prompt.text for prompt in prompts[6:12]]
    off, on = (run_stock(bundle, texts, speculative=mtp, max_tokens=40) for mtp in (False, True))
    assert all(text.startswith(expected) for expected, text in zip(off.texts, on.texts, strict=True))
    assert len(set(off.texts)) > len(off.texts) // 2


@pytest.mark.parametrize("name", RECIPES)
def test_verify_passes_and_reads_every_weight(
    name: str, exported, oracle: Oracle, options: VerifyOptions, small_fp32: Path
) -> None:
    folder = exported(name)
    report = verify(folder, oracle, options)
    assert report.passed, report.summary()
    sizes = inspect_bundle(folder / "model.litertlm").models
    if name in ("mobile", "narrow"):
        assert any(model.constant_bytes.get("int2") for model in sizes.values())
    manifest = json.loads((folder / "manifest.json").read_text())
    formats = {
        weight["format"] for model in manifest["models"].values() for weight in model["weights"].values()
    }  # fmt: skip
    assert {rule["format"] for rule in manifest["options"]["recipe"]["rules"]} <= formats


def test_gathered_rows_are_found_by_their_scales(exported) -> None:
    """`verify` saw them through `clustered_head.scales`; here, that two bits are really what is stored."""
    drafter = inspect_bundle(exported("narrow") / "model.litertlm").models["mtp_drafter"]
    assert drafter.constant_bytes["int2"] >= 2048 * 64 // 4


@pytest.mark.parametrize("name", OF_GRAPHS)
def test_fault_in_a_graph_is_named(name: str, exported, oracle: Oracle, options: VerifyOptions, tmp_path: Path) -> None:
    report = verify(
        planted(exported("mobile"), FAULTS[name], tmp_path / "faulty"),
        oracle,
        replace(options, stop_at_first_failure=True),
    )
    assert report.first_failure == FAULTS[name].stage, report.summary()


def _flipped(model: str, weight: str, at: int):
    """Codes of one byte, turned over."""

    def plant(sections: Sections) -> None:
        constant = sections.constant(model, weight)
        sections.view(model, constant.place, "uint8")[at] ^= 0x77

    return plant


def _scale(model: str, weight: str, row: int, factor: float):
    def plant(sections: Sections) -> None:
        for scales in sections.scales(model, weight):
            scales[row] *= factor

    return plant


def _block_scale(model: str, weight: str):
    def plant(sections: Sections) -> None:
        (place,) = set(sections.constant(model, weight).parameters)
        sections.view(model, place, "float16")[5] *= np.float16(1.25)

    return plant


def _half(sections: Sections) -> None:
    weight = sections.constant("prefill_decode", "layers.1.mlp.up_proj.weight")
    sections.view("prefill_decode", weight.place, "uint16")[1000] ^= 1


@pytest.mark.parametrize(
    ("recipe", "plant", "said"),
    [
        ("mobile", _flipped("embedder", "embed_tokens.weight", 48 * 9), "embed_tokens.weight, token 9"),
        ("mobile", _flipped("prefill_decode", "layers.1.mlp.up_proj.weight", 96 * 3), "up_proj.weight, row 3"),
        (
            "mobile",
            _scale("prefill_decode", "layers.7.mlp.up_proj.weight", 4, 1.25),
            "layers.7.mlp.up_proj.weight, row 4",
        ),
        ("int4", _scale("prefill_decode", "layers.1.mlp.up_proj.weight", 4, 0.8), "up_proj.weight, row 4"),
        ("blocks", _block_scale("prefill_decode", "layers.1.mlp.gate_proj.weight"), "gate_proj.weight, row 0"),
        ("narrow", _flipped("mtp_drafter", "clustered_head.rows", 16), "clustered_head.rows, cluster 0"),
        ("fp16", _half, "up_proj.weight, row 5"),
    ],
)
def test_fault_in_a_weight_is_named(
    recipe: str, plant, said: str, exported, oracle: Oracle, options: VerifyOptions, tmp_path: Path
) -> None:
    bundle = with_sections(exported(recipe) / "model.litertlm", plant, tmp_path)
    report = verify(bundle, oracle, replace(options, stop_at_first_failure=True))
    assert report.first_failure == "weights", report.summary()
    assert any(said in value for value in failed(report).values()), failed(report)
