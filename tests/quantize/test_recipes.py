"""Recipes are data: the first rule that matches decides, and what cannot be meant is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemma_mtp.export.compare.sizes import KNOWN, component_bytes, known_shapes, price_tags
from gemma_mtp.export.graphs.storage import plan_storage
from gemma_mtp.quantize.formats import FORMATS
from gemma_mtp.quantize.recipes import DEFAULT, EVERYWHERE, NAMES, Recipe, TensorName, read_recipe
from gemma_mtp.runtime.errors import UserError
from tests.conftest import DRAFTER, TARGET

TENSORS = [
    *(
        TensorName("target.mlp.up_proj", layer, frozenset({"own-kv" if layer < 3 else "shared-kv"}))
        for layer in range(5)
    ),
    TensorName("target.head"),
    TensorName("embedder"),
]


def rule(tensors: str, form: str, more: str = "") -> str:
    return f"[[rules]]\ntensors = {tensors}\nformat = '{form}'\n{more}\n"


@pytest.fixture
def recipe(tmp_path: Path):
    def make(*rules: str, head: str = "schema = 1\n") -> Recipe:
        path = tmp_path / "mine.toml"
        path.write_text(head + "".join(rules))
        return read_recipe(str(path))

    return make


def test_first_match_wins(recipe) -> None:
    mine = recipe(
        rule("'target.mlp.*'", "int2", "layers = 'shared-kv'"),
        rule("'target.mlp.*'", "int4", "layers = '0-1,7'\nalgorithm = 'mse'"),
        rule("['target.*', 'embedder']", "int8"),
    )
    chosen = mine.choose(TENSORS)
    assert [chosen[tensor].stored_as.name for tensor in TENSORS] == [
        "int4 (mse)", "int4 (mse)", "int8", "int2", "int2", "int8", "int8",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ([rule("'*'", "int5")], "'int5' is no format; did you mean int"),
        ([rule("'*'", "int4", "algorithm = 'octave'")], "'octave' is no algorithm for int4; did you mean octav?"),
        ([rule("'*'", "fp32", "algorithm = 'mse'")], "fp32 has no scales"),
        ([rule("'*'", "int8", "layer = '3'")], "'layer' is no key of a recipe; did you mean layers?"),
        ([rule("'*'", "int8", "layers = '5-3'")], "layers is '5-3'"),
        ([rule("'*'", "int8", "layers = 'all'")], "layers is 'all'"),
        ([rule("3", "int8")], "tensors is 3, expected a name"),
        ([rule("[]", "int8")], "tensors is a list of 0"),
        (["[[rules]]\ntensors = '*'\n"], "format is missing"),
        ([], "rules is missing"),
        (["rules = []"], "has no rules"),
        (["rules = [3]"], "rule 1: is 3, expected a table"),
        (["= 3"], "not readable as TOML"),
    ],
)
def test_file_that_is_no_recipe(rules: list[str], said: str, recipe) -> None:
    with pytest.raises(UserError) as error:
        recipe(*rules)
    assert said in str(error.value)
    assert "mine.toml" in str(error.value)
    assert "\n" not in str(error.value)


def test_other_schema_is_refused(recipe) -> None:
    with pytest.raises(UserError, match="schema is 2"):
        recipe(rule("'*'", "int8"), head="schema = 2\n")


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ([rule("'embedder'", "int8")], "no rule for target.mlp.up_proj of layer 0"),
        ([rule("'*'", "int8"), rule("'target.head'", "int4")], "rule 2: decides nothing"),
        ([rule("'target.hed'", "int8"), rule("'*'", "int8")], "'target.hed' matches no tensor of this pair; did you"),
        ([rule("'target.mlp.*'", "int8", "layers = '9'"), rule("'*'", "int8")], "matches no tensor of this pair in la"),
        ([rule("['embedder', 'mlp']", "int8"), rule("'*'", "int8")], "'mlp' matches no tensor"),
    ],
)
def test_rules_that_do_not_fit_the_pair(rules: list[str], said: str, recipe) -> None:
    with pytest.raises(UserError) as error:
        recipe(*rules).choose(TENSORS)
    assert said in str(error.value)


def test_optional_rule_may_decide_nothing(recipe) -> None:
    mine = recipe(rule("'target.mlp.*'", "int2", "layers = 'double-wide'\noptional = true"), rule("'*'", "int8"))
    assert {rule.stored_as.name for rule in mine.choose(TENSORS).values()} == {"int8"}


@pytest.mark.parametrize("name", NAMES)
def test_named_recipes_fit_every_known_pair_and_backend(name: str) -> None:
    tags = price_tags(read_recipe(name), ("cpu", "gpu"))
    assert list(tags) == list(KNOWN)


def test_bytes_follow_from_the_shapes() -> None:
    e2b = known_shapes("e2b")
    sizes = {name: component_bytes(e2b, read_recipe(name), ("cpu", "gpu")) for name in EVERYWHERE}
    table = 262_144 * 35 * 256
    assert sizes["fp32"]["per_layer_embedder"] == 4 * table
    assert sizes["int8"]["per_layer_embedder"] == table + 12 * 262_144
    # Embedder and head are one table, with scales of their own.
    assert sizes["mobile"]["target.head"] == 262_144 * 1536 // 4 + 12 * 262_144
    assert [sizes[name]["embedder"] for name in ("fp32", "mobile")] == [0, 12 * 262_144]
    assert sum(sizes["mobile"].values()) < 2.25e9 < sum(sizes["int4"].values())
    assert sum(sizes["mixed"].values()) < 2.9e9
    # Layers 15-34, whose MLP is double-wide, in 2 bits; E4B has none of those.
    weights = 3 * 1536 * 6144
    scales = 12 * (2 * 6144 + 1536) * 15 + 12 * (2 * 12288 + 1536) * 20
    assert sizes["mobile"]["target.mlp"] == 15 * weights // 2 + 20 * 2 * weights // 4 + scales


def test_blocks_are_refused_where_they_cannot_be(recipe, tmp_path: Path, run) -> None:
    e2b = known_shapes("e2b")
    blocks = rule("['target.mlp.*']", "int4_block32")
    with pytest.raises(UserError, match=r"rule 1: target.mlp.gate_proj of layer 0 in int4_block32: LiteRT's GPU"):
        component_bytes(e2b, recipe(blocks, rule("'*'", "int8")), ("cpu", "gpu"))
    # Embedders run on the CPU everywhere.
    tables = rule("['embedder', 'per_layer_embedder']", "int4_block64")
    assert component_bytes(e2b, recipe(tables, rule("'*'", "int8")), ("cpu", "gpu"))
    with pytest.raises(UserError, match="the rows of a clustered head are copied whole"):
        component_bytes(e2b, recipe(rule("'*'", "int4_block32")), ("cpu",))
    # The small pair's per-layer inputs have 16 values.
    recipe(rule("'target.per_layer.projection'", "int4_block32"), rule("'*'", "int8"))
    out = tmp_path / "out"
    for weights, said in (
        (tmp_path / "mine.toml", "rows of 16 values do not fill blocks of 32"),
        ("moblie", "'moblie' is no recipe and no file that ends with .toml; did you mean mobile?"),
        (tmp_path / "none.toml", "none.toml: cannot be read"),
    ):
        code, output, error = run(
            "export", str(TARGET), str(DRAFTER), "-o", str(out), "-q", "--weights", str(weights), "--backends", "cpu"
        )
        assert (code, output) == (2, "")
        assert said in error.strip().splitlines()[-1]
    assert not out.exists()


def test_recipes_are_listed_and_explained(run, tmp_path: Path) -> None:
    code, output, _ = run("recipes")
    assert code == 0
    assert all(name in output for name in (*NAMES, *FORMATS))
    code, output, _ = run("recipes", "mobile")
    assert code == 0
    assert "double-wide" in output
    code, output, error = run("recipes", "mixt")
    assert (code, output) == (2, "")
    assert "did you mean mixed?" in error


def test_default_is_a_named_recipe() -> None:
    assert DEFAULT in NAMES
    assert plan_storage({}, Recipe("none", "", ()), ()) == {}
