"""A Vulkan device, prompts, and the shipped pair's texts on stock LiteRT-LM's CPU and GPU backends, each made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gemma_mtp.runtime.stock import StockRun, run_stock
from tests.conftest import CONTEXT, WINDOW, Exports, HeldOutPrompt
from tests.gpu.vulkan import NoDeviceError, vulkan_environment

CACHE = Path(__file__).parents[2] / ".cache"
# One limit for every prompt of a run: those that end this near the context's end run into it, the others stop here.
MAX_TOKENS = 32
NEAR_THE_END, CROSSING = 2, 2

Runs = Callable[[str, str, str], tuple[StockRun, StockRun]]


@pytest.fixture(scope="session", autouse=True)
def device():
    """The Vulkan device's name; child processes find it by the environment."""
    try:
        name, environment = vulkan_environment(CACHE)
    except NoDeviceError as error:
        pytest.skip(f"NO VULKAN DEVICE, NOTHING WAS RUN ON A GPU: {error}")
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in environment.items():
            patch.setenv(variable, value)
        yield name


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say on what the tests ran."""
    try:
        terminalreporter.write_line(f"GPU tests ran on: {vulkan_environment(CACHE)[0]}")
    except NoDeviceError as error:
        terminalreporter.write_line(f"GPU TESTS DID NOT RUN: {error}", red=True)


@pytest.fixture(scope="session")
def chosen(prompts: list[HeldOutPrompt]) -> list[HeldOutPrompt]:
    """Prompts that run to the context's end, then prompts within the window whose answers leave it."""
    near = [prompt for prompt in prompts if 20 <= CONTEXT - len(prompt.tokens) <= MAX_TOKENS]
    crossing = [prompt for prompt in prompts if WINDOW - 16 <= len(prompt.tokens) < WINDOW]
    assert len(near) >= NEAR_THE_END
    assert len(crossing) >= CROSSING
    return [*near[:NEAR_THE_END], *crossing[:CROSSING]]


@pytest.fixture(scope="session")
def texts(chosen: list[HeldOutPrompt]) -> list[str]:
    return [prompt.text for prompt in chosen]


@pytest.fixture(scope="session")
def runs(exports: Exports, texts: list[str], device: str) -> Runs:
    """`(off, on)` of all texts by weights, activations and backend."""
    made: dict[tuple[str, str, str], tuple[StockRun, StockRun]] = {}

    def run(weights: str, activations: str, backend: str) -> tuple[StockRun, StockRun]:
        key = (weights, activations, backend)
        if key not in made:
            bundle = exports(f"gpu-{weights}-{activations}", weights=weights, activations=activations)
            off, on = (
                run_stock(bundle / "model.litertlm", texts, speculative=mtp, backend=backend, max_tokens=MAX_TOKENS)
                for mtp in (False, True)
            )
            made[key] = (off, on)
        return made[key]

    return run
