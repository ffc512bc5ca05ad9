"""Bundles that many tests look at, exported once a session; graphs are traced once per configuration."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rich.console import Console

# Tests never download: set before huggingface_hub is imported.
os.environ["HF_HUB_OFFLINE"] = "1"

from gemma_mtp.export.demo import SMALL_PAIR
from gemma_mtp.export.options import resolve_options
from gemma_mtp.export.pipeline import export, open_pair
from gemma_mtp.export.progress import Reporter
from tests import oracle
from tests.graph_runner import GraphRunner

# The small pair's window is 64: prompts and answers cross it several times before the context ends.
CONTEXT = 256
PREFILL = (32,)
TARGET, DRAFTER = SMALL_PAIR / "target", SMALL_PAIR / "drafter"


@dataclass
class Exports:
    """Exports on demand, each once, with one skeleton cache for all."""

    folder: Path
    done: dict[str, Path] = field(default_factory=dict)

    def __call__(
        self,
        name: str,
        target: Path = TARGET,
        drafter: Path = DRAFTER,
        *,
        weights: str = "fp32",
        context: int = CONTEXT,
        prefill: tuple[int, ...] = PREFILL,
    ) -> Path:
        """Folder of the export called `name`, made now if it is new."""
        if name not in self.done:
            pair = open_pair(str(target), str(drafter))
            options = resolve_options(
                pair.target_config, context_length=context, prefill_lengths=prefill, weights=weights
            )
            reporter = Reporter(Console(stderr=True))
            out = self.folder / name
            export(pair, options, out, reporter, skeleton_cache=self.skeletons)
            self.done[name] = out
        return self.done[name]

    @property
    def skeletons(self) -> Path:
        """Folder of traced graphs."""
        return self.folder / "skeletons"


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return Exports(tmp_path_factory.mktemp("exports"))


@pytest.fixture(scope="session")
def small_fp32(exports: Exports) -> Path:
    return exports("small-fp32")


@pytest.fixture(scope="session")
def small_int8(exports: Exports) -> Path:
    return exports("small-int8", weights="int8")


@pytest.fixture(scope="session")
def e4b_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    target = oracle.random_target(**oracle.E4B_PATTERN)
    folder = tmp_path_factory.mktemp("e4b")
    return oracle.save_pair(target, oracle.random_drafter(target), folder, TARGET / "tokenizer.json")


@pytest.fixture(scope="session")
def e4b(exports: Exports, e4b_checkpoints: tuple[Path, Path]) -> Path:
    return exports("e4b", *e4b_checkpoints, context=96, prefill=(8,))


@pytest.fixture(scope="session")
def dense_drafter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import Gemma4ForConditionalGeneration

    target = Gemma4ForConditionalGeneration.from_pretrained(TARGET)
    folder = tmp_path_factory.mktemp("dense") / "drafter"
    oracle.random_drafter(target, dense_head=True).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def dense_head(exports: Exports, dense_drafter: Path) -> Path:
    return exports("dense-head", drafter=dense_drafter)


@pytest.fixture(scope="session")
def graph_runner() -> Callable[[Path], GraphRunner]:
    """Runs the graphs of an export folder; loaded once per folder."""
    loaded: dict[Path, GraphRunner] = {}

    def load(folder: Path) -> GraphRunner:
        if folder not in loaded:
            loaded[folder] = GraphRunner(folder)
        loaded[folder].reset()
        return loaded[folder]

    return load
