"""Shards and their index: every tensor once, and where the index says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from gemma_mtp.runtime.errors import UserError
from tests.bad_input.conftest import read_all

ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def sharded(folders: dict[str, Path]) -> dict[str, Path]:
    """The drafter in two shards, with an index."""
    drafter = folders["drafter"]
    tensors = load_file(drafter / "model.safetensors")
    (drafter / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {ONE: names[: len(names) // 2], TWO: names[len(names) // 2 :]}
    for file, held in parts.items():
        save_file({name: tensors[name] for name in held}, drafter / file)
    places = {name: file for file, held in parts.items() for name in held}
    (drafter / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folders


def refused(folders: dict[str, Path]) -> str:
    with pytest.raises(UserError) as raised:
        read_all(folders, "drafter")
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value)


def places_of(folders: dict[str, Path]) -> dict[str, str]:
    return json.loads((folders["drafter"] / INDEX).read_text())["weight_map"]


def put_places(folders: dict[str, Path], places: object) -> None:
    (folders["drafter"] / INDEX).write_text(json.dumps({"weight_map": places}))


def test_shards_with_their_index_are_read(sharded: dict[str, Path]) -> None:
    read_all(sharded, "drafter")


def test_tensor_that_is_in_another_file_than_the_index_says(sharded: dict[str, Path]) -> None:
    places = places_of(sharded)
    name = next(name for name, file in places.items() if file == ONE)
    put_places(sharded, {**places, name: TWO})
    assert f"{INDEX}: names {TWO} for {name}, which is in {ONE}" in refused(sharded)


def test_tensor_that_no_file_holds(sharded: dict[str, Path]) -> None:
    put_places(sharded, {**places_of(sharded), "lost.weight": ONE})
    assert f"{INDEX}: names {ONE} for lost.weight, which no file here holds" in refused(sharded)


@pytest.mark.parametrize("with_index", [True, False])
def test_tensor_that_two_files_hold(with_index: bool, sharded: dict[str, Path]) -> None:
    drafter = sharded["drafter"]
    first = load_file(drafter / ONE)
    name = sorted(first)[0]
    save_file({**load_file(drafter / TWO), name: first[name] + 1}, drafter / TWO)
    if not with_index:
        (drafter / INDEX).unlink()
    line = refused(sharded)
    assert f"holds {name}, as does {ONE}" in line
    assert str(drafter / TWO) in line


@pytest.mark.parametrize("places", [[], {}, "x", 7, {"a": 7}, {"a": None}, {"a": "x\x00y"}, {"a": ""}, {"a": "."}])
def test_index_that_names_no_files(places: object, sharded: dict[str, Path]) -> None:
    put_places(sharded, places)
    assert INDEX in refused(sharded) or str(sharded["drafter"]) in refused(sharded)
