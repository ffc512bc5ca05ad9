"""Bundles that many tests look at, exported once a session; graphs are traced once per configuration."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings
from rich.console import Console

# Tests never download: set before huggingface_hub is imported.
os.environ["HF_HUB_OFFLINE"] = "1"

from transformers import AutoTokenizer

from gemma_mtp.export.checkpoint.pair import open_pair
from gemma_mtp.export.cli import main as cli
from gemma_mtp.export.demo import SMALL_PAIR
from gemma_mtp.export.models.kv_cache import CacheFormat
from gemma_mtp.export.options import BACKENDS, resolve_options
from gemma_mtp.export.pipeline import export
from gemma_mtp.export.progress import Reporter
from gemma_mtp.runtime.parity.oracle.reference import greedy_tokens, load_pair
from gemma_mtp.runtime.stock import StockRun, run_stock
from tests.small_pair.corpus import held_out_prompts
from tests.support import oracle
from tests.support.graph_runner import GraphRunner

# The same examples in every run; HYPOTHESIS_PROFILE=default searches for new ones.
settings.register_profile("reproducible", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "reproducible"))

pytest_plugins = ["pytester"]
# The small pair's window is 64: prompts and answers cross it several times before the context ends.
CONTEXT, WINDOW, DRAFT_TOKENS, STOP = 256, 64, 4, (1, 5)
PREFILL = (32,)
PROMPTS, TO_THE_END, GREEDY_TOKENS = 48, 16, 28
BundleOf = Callable[[str], Path]
TARGET, DRAFTER = SMALL_PAIR / "target", SMALL_PAIR / "drafter"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs an exported bundle, so that `make check` can leave it out; and keep together on one process what
    shares costly fixtures: a file's tests, and those that read stock LiteRT-LM's texts."""
    for item in items:
        shared = {"stock_runs", "greedy"} & set(getattr(item, "fixturenames", ()))
        item.add_marker(pytest.mark.xdist_group("texts" if shared else item.nodeid.partition("::")[0]))
        if "exports" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.export)


@dataclass(frozen=True)
class HeldOutPrompt:
    """A prompt, and its tokens with the start token."""

    text: str
    tokens: list[int]


@dataclass
class Exports:
    """Exports on demand, each once for all test processes, with one skeleton cache.

    The cache is kept in the checkout: its keys hold the code and the versions that a traced graph depends on.
    """

    folder: Path

    def __call__(
        self,
        name: str,
        target: Path = TARGET,
        drafter: Path = DRAFTER,
        *,
        weights: str = "fp32",
        context: int = CONTEXT,
        prefill: tuple[int, ...] = PREFILL,
        verify_lengths: tuple[int, ...] = (),
        activations: str | None = None,
        backends: tuple[str, ...] = BACKENDS,
        adapters: tuple[Path, ...] = (),
        kv_cache: CacheFormat = "fp32",
        fixed_context: bool = False,
    ) -> Path:
        """Folder of the export called `name`, made now if it is new."""
        out = self.folder / name
        # Of two test processes one exports, the other waits for it.
        with FileLock(self.folder / ".lock"):
            if out.exists():
                return out
            pair = open_pair(str(target), str(drafter), [*map(str, adapters)])
            options = resolve_options(
                pair.target_config,
                context_length=context,
                prefill_lengths=prefill,
                # Not the default 3: a pass of five rows is more than one tile of the kernels.
                draft_tokens=4,
                verify_lengths=verify_lengths,
                weights=weights,
                activations=activations,
                backends=backends,
                kv_cache=kv_cache,
                fixed_context=fixed_context,
            )
            reporter = Reporter(Console(stderr=True))
            export(pair, options, out, reporter, skeleton_cache=self.skeletons, tflite_files=True)
        return out

    @property
    def skeletons(self) -> Path:
        """Folder of traced graphs."""
        return Path(__file__).parents[1] / ".cache" / "skeletons"


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # Whose folders lie side by side in the run's own.
        folder = folder.parent
    (folder / "exports").mkdir(exist_ok=True)
    return Exports(folder / "exports")


@pytest.fixture(scope="session")
def bundle_of(request: pytest.FixtureRequest, exports: Exports) -> BundleOf:
    """The export's folder that the fixture of a name gives; for tests that take the name as a parameter."""
    return request.getfixturevalue


@pytest.fixture(scope="session")
def small_fp32(exports: Exports) -> Path:
    return exports("small-fp32")


@pytest.fixture(scope="session")
def small_int8(exports: Exports) -> Path:
    return exports("small-int8", weights="int8")


@pytest.fixture(scope="session")
def kv_fp16(exports: Exports) -> Path:
    """float32 weights, float16 caches."""
    return exports("kv-fp16", kv_cache="fp16")


@pytest.fixture(scope="session")
def kv_int8(exports: Exports) -> Path:
    """float32 weights, int8 caches."""
    return exports("kv-int8", kv_cache="int8")


@pytest.fixture(scope="session")
def all_int8(exports: Exports) -> Path:
    """int8 weights and caches."""
    return exports("all-int8", weights="int8", kv_cache="int8")


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
def small_lengths(exports: Exports) -> Path:
    """An int8 bundle with verify signatures for 2, 4 and 8 draft tokens."""
    return exports("small-lengths", weights="int8", verify_lengths=(2, 8))


@pytest.fixture(scope="session")
def tokenizer():
    return AutoTokenizer.from_pretrained(TARGET)


@pytest.fixture(scope="session")
def torch_pair():
    """transformers' own models of the shipped pair, float32."""
    return load_pair(str(TARGET), str(DRAFTER))


@pytest.fixture(scope="session")
def prompts(tokenizer) -> list[HeldOutPrompt]:
    """Held-out prompts of many lengths; the first few nearly fill the context, many cross the window."""
    texts = held_out_prompts(4 * PROMPTS)
    pool = [HeldOutPrompt(t, tokenizer("<bos>" + t, add_special_tokens=False)["input_ids"]) for t in texts]
    long = [prompt for prompt in pool if CONTEXT - 45 <= len(prompt.tokens) <= CONTEXT - 2]
    fitting = [prompt for prompt in pool if len(prompt.tokens) < CONTEXT - 45]
    chosen = [*long[:6], *fitting[: PROMPTS - 6]]
    lengths = sorted(len(prompt.tokens) for prompt in chosen)
    assert len(chosen) == PROMPTS
    assert lengths[0] < 20
    assert sum(length > WINDOW for length in lengths) >= PROMPTS // 4
    assert lengths[-1] > CONTEXT - 45
    return chosen


@pytest.fixture(scope="session")
def stock_runs(bundle_of: BundleOf, prompts: list[HeldOutPrompt]):
    """All prompts on stock LiteRT-LM, `(off, on)`, by name of a bundle's fixture; each made once."""
    made: dict[str, tuple[StockRun, StockRun]] = {}

    def run(name: str) -> tuple[StockRun, StockRun]:
        if name not in made:
            bundle, texts = bundle_of(name) / "model.litertlm", [prompt.text for prompt in prompts]
            made[name] = (run_stock(bundle, texts, speculative=False), run_stock(bundle, texts, speculative=True))
        return made[name]

    return run


@pytest.fixture(scope="session")
def greedy(torch_pair, prompts: list[HeldOutPrompt]) -> list[list[int]]:
    """transformers' greedy continuation of every prompt, with the stop token that ended it.

    The first `TO_THE_END` go a little past the context's end, the others (generate is slow) to `GREEDY_TOKENS`.
    """
    room = [CONTEXT - len(prompt.tokens) for prompt in prompts]
    limits = [
        left + DRAFT_TOKENS if index < TO_THE_END else min(left, GREEDY_TOKENS) for index, left in enumerate(room)
    ]
    return [
        greedy_tokens(torch_pair[0], prompt.tokens, limit, STOP) for prompt, limit in zip(prompts, limits, strict=True)
    ]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Runs the command in this process; returns exit code, standard output and standard error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gemma-mtp-export", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        output, error = capfd.readouterr()
        return int(stopped.value.code or 0), output, error

    return call


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
