"""Every weight of a bundle is compared: a fault in any row of any model is named, and every byte is counted once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gemma_mtp.export.checkpoint.pair import open_pair
from gemma_mtp.export.parity import open_oracle
from gemma_mtp.runtime.bundle.container import BundleFile
from gemma_mtp.runtime.parity.oracle.oracle import Oracle
from gemma_mtp.runtime.parity.report.coverage import read_layout
from gemma_mtp.runtime.parity.report.report import COMPARED, NOT_COMPARED, RUN, Report, Stage, Verdict
from gemma_mtp.runtime.parity.stages.weights import weights_stage
from gemma_mtp.runtime.parity.verify import STAGES
from tests.conftest import DRAFTER, TARGET, BundleOf, Exports
from tests.small_pair import chat_adapter
from tests.support.in_place import Sections, with_sections

ADAPTER = Path(chat_adapter.__file__).parent
ROWS, SCALES = "clustered_head.rows", "clustered_head.scales"
PLACES = "clustered_head.inverse_ordering"
Q_PROJ = "layers.3.self_attn.q_proj.weight"
UP, NORM = "layers.1.mlp.up_proj.weight", "layers.3.input_layernorm.weight"


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return open_oracle(open_pair(str(TARGET), str(DRAFTER)))


def compared(bundle: Path, oracle: Oracle) -> Report:
    """The stage alone, as a report whose other stages were skipped."""
    stages = {name: Stage(name) for name in STAGES}
    layout = read_layout(BundleFile(bundle))
    weights_stage(stages["weights"], layout, oracle)
    return Report({}, tuple(stages.values()), layout.coverage(stages))


def failed(report: Report) -> dict[str, str]:
    """What every failed check found, by name."""
    checks = [check for stage in report.stages for check in stage.checks if check.verdict is Verdict.FAIL]
    return {check.name: str(check.value) for check in checks}


def swap(rows: np.ndarray, one: int, other: int) -> None:
    rows[[one, other]] = rows[[other, one]]


def _zeroed(model: str, name: str, row: int) -> Callable[[Sections], None]:
    def plant(sections: Sections) -> None:
        sections.weight(model, name)[row] = 0

    return plant


def _swapped(model: str, name: str) -> Callable[[Sections], None]:
    return lambda sections: swap(sections.weight(model, name), 700, 701)


def _scaled(model: str, name: str, factor: float, rows: slice = slice(None)) -> Callable[[Sections], None]:
    def plant(sections: Sections) -> None:
        weight = sections.weight(model, name)[rows]
        weight[:] = (weight * factor).astype(weight.dtype)

    return plant


def _scales(model: str, name: str, row: int, *, everywhere: bool) -> Callable[[Sections], None]:
    """A scale a fifth larger, in every signature or in one alone."""

    def plant(sections: Sections) -> None:
        scales = sections.scales(model, name)
        for view in scales if everywhere else scales[1:2]:
            view[row] *= 1.2

    return plant


def _coarser(sections: Sections) -> None:
    """Twice the scale and the codes that belong to it: a sound quantization to seven bits."""
    table = load_file(TARGET / "model.safetensors")["model.language_model.embed_tokens.weight"].float().numpy()
    for scales in sections.scales("embedder", "embed_tokens.weight"):
        scales *= 2
        sections.weight("embedder", "embed_tokens.weight")[:] = np.rint(table / scales[:, None])


def _zero_point(sections: Sections) -> None:
    constant = sections.constant("mtp_drafter", "post_projection.weight")
    (place,) = [place for place in constant.parameters if place[1] - place[0] == 8 * constant.shape[0]]
    sections.view("mtp_drafter", place, "int64")[5] = 1


def _stray(sections: Sections) -> None:
    sections.content[min(section.end for section in sections.bundle.sections)] = 7


def _behind_the_embedders_graph(sections: Sections) -> None:
    sections.content[sections.bundle.model_sections()[PREFILL].begin - 1] = 7


def _epsilon(sections: Sections) -> None:
    """Ten times as large in one place of one signature."""
    for constant in sections.constants("prefill_decode"):
        if constant.dtype == "float32" and constant.signatures == {"prefill_32"} and constant.elements == 1:
            value = sections.view("prefill_decode", constant.place, "float32")
            if np.isclose(value[0], 1e-6, rtol=1e-3):
                value *= 10
                return
    raise AssertionError("no epsilon")


def _last_bit(sections: Sections) -> None:
    sections.weight("prefill_decode", NORM).view(np.int32)[9] ^= 1


def _late(sections: Sections) -> None:
    table = sections.weight("mtp_drafter", "rope.sliding.fine")
    table[:-1] = table[1:].copy()


PREFILL, EMBEDDER, PER_LAYER, MTP = "prefill_decode", "embedder", "per_layer_embedder", "mtp_drafter"
# Format, fault, check that must fail, and what it must name.
FAULTS: dict[str, tuple[str, Callable[[Sections], None], str, tuple[str, ...]]] = {}
for _format in ("fp32", "int8"):
    FAULTS |= {
        f"{_format}: {what}": (_format, plant, check, named)
        for what, plant, check, named in (
            (
                "a zeroed embedding row",
                _zeroed(EMBEDDER, "embed_tokens.weight", 1234),
                f"{EMBEDDER}: every",
                ("embed_tokens.weight", "token 1234", "all of the row is 0"),
            ),
            (
                "exchanged places of the clustered ordering",
                _swapped(MTP, PLACES),
                f"{MTP}: every",
                (PLACES, "2 of 2,048 rows"),
            ),
            (
                "a zeroed centroid",
                _zeroed(MTP, "masked_embedding.centroids.weight", 77),
                f"{MTP}: every",
                ("centroids", "cluster 77"),
            ),
            (
                "one cluster's rows at half their size",
                _scaled(MTP, ROWS, 0.5, slice(2, 3)),
                f"{MTP}: every",
                (ROWS, "cluster 2", "16 of 2,048 rows"),
            ),
            (
                "exchanged rows of the per-layer table",
                _swapped(PER_LAYER, "embed_tokens_per_layer.weight"),
                f"{PER_LAYER}: every",
                ("token 70", "2 of 2,048 rows"),
            ),
            (
                "a row of a rotary table",
                _zeroed(PREFILL, "rope.full.fine", 200),
                f"{PREFILL}: every",
                ("rope.full.fine", "position 200"),
            ),
            (
                "the drafter's rotary table a position late",
                _late,
                f"{MTP}: every",
                ("rope.sliding.fine", "position"),
            ),
            ("a norm off by a tenth", _scaled(PREFILL, NORM, 1.1), f"{PREFILL}: every", (NORM, "192 of 192 rows")),
            (
                "one value of a norm off by its last bit",
                lambda sections: (
                    sections.weight(PREFILL, NORM)
                    .view(np.int32)
                    .__setitem__(9, 1 ^ sections.weight(PREFILL, NORM).view(np.int32)[9])
                ),
                f"{PREFILL}: every",
                (NORM, "row 9"),
            ),
            ("a head's row", _zeroed(PREFILL, "embed_tokens.weight", 1999), f"{PREFILL}: every", ("token 1999",)),
            ("padding that is not zero", _stray, "nothing lies between", ("expected 0",)),
            (
                "padding between two graphs that is not zero",
                _behind_the_embedders_graph,
                "nothing lies between",
                (f"padding of {EMBEDDER}", "expected 0"),
            ),
            ("a small constant of one signature", _epsilon, "all signatures", ("prefill", "constant")),
        )
    }
FAULTS |= {
    "int8: one scale off by a fifth": (
        "int8",
        _scales(PREFILL, UP, 17, everywhere=True),
        f"{PREFILL}: every",
        (UP, "row 17"),
    ),
    "int8: one scale of the clustered head off by a fifth": (
        "int8",
        lambda sections: sections.weight(MTP, SCALES).__setitem__((3, 5), 1.2 * sections.weight(MTP, SCALES)[3, 5]),
        f"{MTP}: every",
        (ROWS, "cluster 3"),
    ),
    "fp32: a scale of the clustered head that is not 1": (
        "fp32",
        lambda sections: sections.weight(MTP, SCALES).__setitem__((3, 5), 1.2),
        f"{MTP}: every",
        (ROWS, "with scales"),
    ),
    "int8: a scale altered in one signature": (
        "int8",
        _scales(PREFILL, Q_PROJ, 3, everywhere=False),
        "all signatures",
        (Q_PROJ,),
    ),
    "int8: quantized to seven bits": ("int8", _coarser, f"{EMBEDDER}: every", ("coarser", "2,048 of 2,048 rows")),
    "int8: a zero point": ("int8", _zero_point, f"{MTP}: every", ("post_projection.weight", "zero points")),
}


@pytest.mark.parametrize("weights", ["small_fp32", "small_int8", "e4b", "dense_head"])
def test_sound_bundles_pass(weights: str, bundle_of: BundleOf, request: pytest.FixtureRequest, oracle: Oracle) -> None:
    if weights == "e4b":
        target, drafter = request.getfixturevalue("e4b_checkpoints")
        oracle = open_oracle(open_pair(str(target), str(drafter)))
    elif weights == "dense_head":
        oracle = open_oracle(open_pair(str(TARGET), str(request.getfixturevalue("dense_drafter"))))
    report = compared(bundle_of(weights) / "model.litertlm", oracle)
    assert report.passed, report.summary()


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_named(name: str, bundle_of: BundleOf, tmp_path: Path, oracle: Oracle) -> None:
    weights, plant, check, named = FAULTS[name]
    bundle = with_sections(bundle_of(f"small_{weights}") / "model.litertlm", plant, tmp_path)
    problems = failed(compared(bundle, oracle))
    (found,) = [text for title, text in problems.items() if title.startswith(check)]
    for part in named:
        assert part in found


def test_a_fault_in_the_table_that_embedder_and_head_share_is_both_models(
    small_int8: Path, tmp_path: Path, oracle: Oracle
) -> None:
    plant = _scaled(EMBEDDER, "embed_tokens.weight", 0)
    bundle = with_sections(small_int8 / "model.litertlm", plant, tmp_path)
    problems = failed(compared(bundle, oracle))
    assert set(problems) == {f"{model}: every weight is the checkpoint's" for model in (EMBEDDER, PREFILL)}
    assert all("2,048 of 2,048 rows" in text for text in problems.values())


@pytest.mark.parametrize("weights", ["fp32", "int8"])
def test_base_and_fine_tune_are_told_apart(weights: str, exports: Exports, bundle_of: BundleOf, oracle: Oracle) -> None:
    adapted = open_oracle(open_pair(str(TARGET), str(DRAFTER), [str(ADAPTER)]))
    base = bundle_of(f"small_{weights}") / "model.litertlm"
    tuned = exports(f"adapted-{weights}", weights=weights, adapters=(ADAPTER,)) / "model.litertlm"
    assert compared(tuned, adapted).passed, compared(tuned, adapted).summary()
    for bundle, other in ((base, adapted), (tuned, oracle)):
        problems = failed(compared(bundle, other))
        assert set(problems) == {f"{PREFILL}: every weight is the checkpoint's"}
        assert "and " in problems[f"{PREFILL}: every weight is the checkpoint's"]


def test_int8_of_a_fine_tune_of_low_rank_is_not_another(small_int8: Path, tmp_path: Path) -> None:
    """A change of a hundredth of a weight's size, of rank 2, in one matrix."""
    target = tmp_path / "target"
    target.mkdir()
    for file in TARGET.iterdir():
        (target / file.name).symlink_to(file)
    tensors = load_file(TARGET / "model.safetensors")
    name = f"model.language_model.{Q_PROJ}"
    weight, generator = tensors[name].float(), torch.Generator().manual_seed(3)
    left, right = (torch.randn(size, 2, generator=generator) for size in weight.shape)
    change = left @ right.T
    tensors[name] = weight + 0.01 * change * weight.norm() / change.norm()
    (target / "model.safetensors").unlink()
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    problems = failed(compared(small_int8 / "model.litertlm", open_oracle(open_pair(str(target), str(DRAFTER)))))
    assert list(problems) == [f"{PREFILL}: every weight is the checkpoint's"]
    assert Q_PROJ in next(iter(problems.values()))


def test_every_byte_is_counted_once(bundle_of: BundleOf, oracle: Oracle) -> None:
    for name in ("small_fp32", "small_int8"):
        bundle = bundle_of(name) / "model.litertlm"
        report = compared(bundle, oracle)
        assert report.covered_bytes() == bundle.stat().st_size
        ways = {(entry.section, entry.part): entry.how for entry in report.coverage}
        assert {how for (_, part), how in ways.items() if part in ("weights", "padding")} == {COMPARED}
        # Nothing else ran.
        assert {how for (_, part), how in ways.items() if part in ("graphs", "small constants")} == {NOT_COMPARED}
        assert RUN not in ways.values()
        assert ways["LlmMetadataProto", "LlmMetadataProto"] == NOT_COMPARED
        assert "not compared: header" in report.coverage_summary()
        assert sum(entry["bytes"] for entry in report.as_dict()["coverage"]) == bundle.stat().st_size
