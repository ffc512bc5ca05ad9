"""The house rules that a tool can check: who may import whom, how big a room is, what a trace depends on."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

from gemma_mtp.export.graphs.tracing.skeleton_cache import TRACED_SOURCES

ROOT = Path(__file__).parents[1]
ROOMS = ("export", "quantize", "runtime")
MOST_FILES = 12
Imports = dict[str, set[str]]


def modules() -> dict[str, Path]:
    files = (path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imports_of(name: str, path: Path, known: set[str]) -> set[str]:
    """Modules of this project that a module imports, anywhere in it."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            found |= {".".join(base)} | {".".join([*base, alias.name]) for alias in node.names}
    return found & known


@pytest.fixture(scope="module")
def imports() -> Imports:
    found = modules()
    return {name: imports_of(name, path, set(found)) - {name} for name, path in found.items()}


def room(module: str) -> str:
    """The folder below a top-level one that a module lives in; itself where it lives in none."""
    parts = module.split(".")
    return ".".join(parts[:2])


def cycle(graph: Imports) -> list[str]:
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_modules_import_in_no_circle(imports: Imports) -> None:
    assert cycle(imports) == []


def test_rooms_import_in_no_circle(imports: Imports) -> None:
    between: Imports = defaultdict(set)
    for module, imported in imports.items():
        between[room(module)] |= {room(other) for other in imported} - {room(module)}
    assert cycle(between) == []


def test_a_circle_is_seen() -> None:
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}})


def test_runtime_imports_nothing_of_export(imports: Imports) -> None:
    wrong = {name: found for name in imports if name.startswith("runtime") if (found := _of(imports[name], "export"))}
    assert wrong == {}


def _of(found: set[str], top: str) -> set[str]:
    return {name for name in found if name.split(".")[0] == top}


def test_runtime_needs_torch_for_parity_only() -> None:
    for name, path in modules().items():
        if name.startswith("runtime") and not name.startswith("runtime.parity"):
            lines = path.read_text("utf-8").splitlines()
            assert not [line for line in lines if line.split()[:2] in (["import", "torch"], ["from", "torch"])], name


def test_no_folder_has_more_than_a_dozen_files() -> None:
    folders = {path.parent for top in (*ROOMS, "tests") for path in (ROOT / top).rglob("*.py")}
    counts = {str(folder.relative_to(ROOT)): len(list(folder.glob("*.py"))) for folder in folders}
    assert {name: count for name, count in counts.items() if count > MOST_FILES} == {}


def test_every_folder_is_a_package_that_says_what_lives_in_it() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for path in modules().values()}
    listed = {f"gemma_mtp.{'.'.join(folder.parts)}": str(folder) for folder in folders}
    assert setuptools["package-dir"] == listed
    assert sorted(setuptools["packages"]) == sorted(listed)
    for folder in folders:
        assert ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text("utf-8"))), folder


def test_skeleton_cache_knows_every_file_that_a_trace_runs_through() -> None:
    script = (
        "import sys, gemma_mtp.export.graphs.tracing.trace; print(*sorted(m for m in sys.modules if 'gemma_mtp.' in m))"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    found = modules()
    loaded = [found[name.removeprefix("gemma_mtp.")] for name in output.split()]
    assert loaded
    # Packages hold a docstring alone; an error's class does not change a graph.
    relevant = {path for path in loaded if path.name not in ("__init__.py", "errors.py")}
    assert {str(path.relative_to(ROOT)) for path in relevant} == set(TRACED_SOURCES)
