"""What lies beside a bundle is compared with it, and is never what `verify` or the runtime runs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from gemma_mtp.runtime.bundle.container import BundleFile
from gemma_mtp.runtime.bundle.loading import open_bundle
from gemma_mtp.runtime.bundle.names import EMBEDDER, PER_LAYER_EMBEDDER
from gemma_mtp.runtime.mapped import mapped_bytes
from gemma_mtp.runtime.parity.report.report import Stage, Verdict
from gemma_mtp.runtime.parity.stages.files import files_stage
from tests.support.faults import FAULTS, plant
from tests.support.sections import replace_model


@pytest.fixture
def folder(small_fp32: Path, tmp_path: Path) -> Path:
    """A copy of a sound export whose files may be changed."""
    shutil.copytree(small_fp32, tmp_path / "copy")
    return tmp_path / "copy"


def stage_of(folder: Path) -> Stage:
    stage = Stage("files")
    bundle = BundleFile(folder / "model.litertlm")
    files_stage(stage, bundle, hashlib.sha256(bundle.path.read_bytes()).hexdigest())
    return stage


def problems_of(folder: Path) -> str:
    stage = stage_of(folder)
    assert stage.verdict is Verdict.FAIL
    return "; ".join(str(check.value) for check in stage.checks if check.verdict is Verdict.FAIL)


def test_sound_folder_passes(small_fp32: Path) -> None:
    stage = stage_of(small_fp32)
    assert stage.verdict is Verdict.PASS
    assert len(stage.checks) == 2


def test_bundle_alone_says_so(small_fp32: Path, tmp_path: Path) -> None:
    os.link(small_fp32 / "model.litertlm", tmp_path / "model.litertlm")
    stage = stage_of(tmp_path)
    assert stage.verdict is Verdict.SKIPPED
    assert [check.value for check in stage.checks] == ["none beside the bundle", None]


@pytest.mark.parametrize("model", ["prefill_decode", "embedder", "per_layer_embedder", "mtp_drafter"])
def test_file_that_differs_from_its_section_is_named(model: str, folder: Path) -> None:
    file = folder / f"{model}.tflite"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert f"{model}.tflite differs from its section" in problems_of(folder)
    assert f"{model}.tflite has SHA-256" in problems_of(folder)
    file.write_bytes(content[:-64])
    assert f"its section {len(content):,}" in problems_of(folder)


def test_other_bundle_beside_sound_files_is_named(folder: Path) -> None:
    plant(folder / "model.litertlm", FAULTS["no layer scalar"])
    found = problems_of(folder)
    assert re.search(r"prefill_decode\.tflite has [\d,]+ bytes, its section", found)
    assert re.search(r"model\.litertlm has [\d,]+ bytes, not ", found)


def test_file_of_no_model_is_named(folder: Path) -> None:
    shutil.copyfile(folder / "embedder.tflite", folder / "vision.tflite")
    assert "vision.tflite is no model of the bundle" in problems_of(folder)
    assert "vision.tflite is not in it" in problems_of(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m["files"]["model.litertlm"].update(sha256="0" * 64), "not 000000000000..."),
        (lambda m: m["files"]["embedder.tflite"].update(bytes=7), "bytes, not 7"),
        (lambda m: m["files"].pop("mtp_drafter.tflite"), "mtp_drafter.tflite is not in it"),
        (lambda m: m["files"].update({"model.litertlm": 3}), "manifest.json names no files with their sizes"),
        (lambda m: m["files"]["embedder.tflite"].update(sha256=None), "manifest.json names no files with their sizes"),
        (lambda m: m.update(files=[]), "manifest.json names no files with their sizes"),
        (lambda m: m.pop("files"), "manifest.json names no files with their sizes"),
    ],
)
def test_wrong_manifest_is_named(change, said: str, folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert said in problems_of(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"[" * 100_000])
def test_corrupt_manifest_is_a_problem(content: bytes, folder: Path) -> None:
    (folder / "manifest.json").write_bytes(content)
    assert re.search(r"manifest\.json: (not readable as JSON|holds \w+, expected a JSON object)", problems_of(folder))


def test_models_are_the_bundles_sections(folder: Path) -> None:
    """The files beside it are not even opened."""
    for file in folder.glob("*.tflite"):
        file.write_bytes(b"no model")
    opened = BundleFile(folder / "model.litertlm")
    for name, source in open_bundle(folder).models.items():
        content, section = source.content(), opened.model_sections()[name]
        assert len(content) == section.size
        if name in (EMBEDDER, PER_LAYER_EMBEDDER):  # The others get the context that was chosen.
            assert content == opened.content(section)


def test_sections_are_mapped_as_bytes(small_fp32: Path) -> None:
    bundle = BundleFile(small_fp32 / "model.litertlm")
    for section in bundle.model_sections().values():
        mapped = mapped_bytes(bundle.path, section.begin, section.end)
        assert type(mapped) is bytes
        assert mapped == bundle.copy(section)
        assert hash(mapped) == hash(bundle.copy(section))
        assert bundle.content(section) == mapped  # The file itself was not written to.


def test_mapping_takes_no_memory(tmp_path: Path) -> None:
    """More than the machine's memory, of a file that is one hole."""
    size = 1 << 33
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(size)
    mapped = mapped_bytes(tmp_path / "hole", 1 << 14, size)
    assert mapped is None or (len(mapped), mapped[0], mapped[-1]) == (size - (1 << 14), 0, 0)


def test_replaced_section_leaves_a_sound_container(folder: Path) -> None:
    bundle = folder / "model.litertlm"
    before = BundleFile(bundle)
    content = before.copy(before.model_sections()["embedder"])
    replace_model(bundle, "embedder", content + bytes(100_000))
    after = BundleFile(bundle)
    for old, new in zip(before.sections, after.sections, strict=True):
        assert (old.kind, old.items) == (new.kind, new.items)
        same = bytes(after.content(new))[: old.size] == bytes(before.content(old))
        assert same
        assert new.begin % (1 << 14) == 0
        assert new.size == old.size + (100_000 if new.model_type == "embedder" else 0)
