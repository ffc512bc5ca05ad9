"""A Vulkan device, prompts, and the shipped pair's texts on stock LiteRT-LM's CPU and GPU backends, each made once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from gemma_mtp.export.models.kv_cache import CacheFormat
from gemma_mtp.runtime.stock import StockRun, StockRuntimeError, run_stock
from tests.conftest import CONTEXT, WINDOW, Exports, HeldOutPrompt
from tests.gpu.vulkan import NoDeviceError, vulkan_environment

CACHE = Path(__file__).parents[2] / ".cache"
# One limit for every prompt of a run: those that end this near the context's end run into it, the others stop here.
MAX_TOKENS = 28
NEAR_THE_END, CROSSING = 2, 2

_TRIES = 3

Runs = Callable[..., tuple[StockRun, StockRun]]


_OUTCOME = pytest.StashKey[str]()


@pytest.fixture(scope="session", autouse=True)
def device(pytestconfig: pytest.Config):
    """The Vulkan device's name; child processes find it by the environment."""
    try:
        name, environment = vulkan_environment(CACHE)
    except NoDeviceError as error:
        pytestconfig.stash[_OUTCOME] = f"NO VULKAN DEVICE, NOTHING WAS RUN ON A GPU: {error}"
        pytest.skip(pytestconfig.stash[_OUTCOME])
    pytestconfig.stash[_OUTCOME] = f"GPU tests ran on {name}."
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in environment.items():
            patch.setenv(variable, value)
        yield name


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say on what the tests ran, if they were asked for."""
    if _OUTCOME in config.stash:
        terminalreporter.section("GPU")
        terminalreporter.write_line(config.stash[_OUTCOME])


def run_patiently(
    bundle: Path,
    texts: list[str],
    *,
    speculative: bool,
    backend: str,
    max_tokens: int,
    context_length: int | None = None,
) -> StockRun:
    """`run_stock` in up to three tries: on a busy machine a software device misses the runtime's deadlines of 10 s
    while it loads. What is wrong with a bundle is wrong each time."""

    def run() -> StockRun:
        return run_stock(
            bundle,
            texts,
            speculative=speculative,
            backend=backend,
            max_tokens=max_tokens,
            context_length=context_length,
        )

    for _ in range(_TRIES - 1):
        with contextlib.suppress(StockRuntimeError):
            return run()
    return run()


@pytest.fixture(scope="session")
def chosen(prompts: list[HeldOutPrompt]) -> list[HeldOutPrompt]:
    """Prompts that run to the context's end, then prompts within the window whose answers leave it."""
    near = [prompt for prompt in prompts if CONTEXT - len(prompt.tokens) <= MAX_TOKENS]
    crossing = [prompt for prompt in prompts if WINDOW - 16 <= len(prompt.tokens) < WINDOW]
    assert len(near) >= NEAR_THE_END
    assert len(crossing) >= CROSSING
    return [*near[:NEAR_THE_END], *crossing[:CROSSING]]


@pytest.fixture(scope="session")
def texts(chosen: list[HeldOutPrompt]) -> list[str]:
    return [prompt.text for prompt in chosen]


@pytest.fixture(scope="session")
def runs(exports: Exports, texts: list[str], device: str) -> Runs:
    """`(off, on)` of all texts by weights, activations, backend and format of the caches."""
    made: dict[tuple[str, str, str, CacheFormat], tuple[StockRun, StockRun]] = {}

    def run(weights: str, activations: str, backend: str, kv_cache: CacheFormat = "fp32") -> tuple[StockRun, StockRun]:
        key = (weights, activations, backend, kv_cache)
        if key not in made:
            name = f"gpu-{weights}-{activations}-{kv_cache}"
            bundle = exports(name, weights=weights, activations=activations, kv_cache=kv_cache)
            file = bundle / "model.litertlm"
            off, on = (
                run_patiently(file, texts, speculative=mtp, backend=backend, max_tokens=MAX_TOKENS)
                for mtp in (False, True)
            )
            made[key] = (off, on)
        return made[key]

    return run
