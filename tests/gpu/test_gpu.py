"""The shipped pair's bundles on stock LiteRT-LM's GPU backend: `make test-gpu`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gemma_mtp.runtime.stock import StockRun, run_stock
from tests.conftest import CONTEXT, WINDOW, Exports, HeldOutPrompt
from tests.gpu.vulkan import NoDeviceError, vulkan_environment

pytestmark = pytest.mark.gpu
CACHE = Path(__file__).parents[2] / ".cache"
# Both draft from the same caches, but at near ties of int8 weights their texts part, and with them what is drafted.
ACCEPTANCE_BOUND = 0.1
NEAR_THE_END, CROSSING = 2, 3


@pytest.fixture(scope="module", autouse=True)
def device():
    """The Vulkan device's name; LiteRT-LM's child processes find it by the environment."""
    try:
        name, environment = vulkan_environment(CACHE)
    except NoDeviceError as error:
        pytest.skip(f"NO VULKAN DEVICE, NOTHING WAS RUN ON A GPU: {error}")
    before = dict(os.environ)
    os.environ.update(environment)
    yield name
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def texts(prompts: list[HeldOutPrompt]) -> list[str]:
    """Prompts that end near the context's end, and longer and shorter ones whose answers cross the window."""
    near = [prompt for prompt in prompts if len(prompt.tokens) > CONTEXT - 45][:NEAR_THE_END]
    crossing = [prompt for prompt in prompts if 2 * WINDOW < len(prompt.tokens) < CONTEXT - 60][:CROSSING]
    short = [prompt for prompt in prompts if len(prompt.tokens) < WINDOW // 2][:1]
    return [prompt.text for prompt in [*near, *crossing, *short]]


@pytest.fixture(scope="module")
def runs(exports: Exports, texts: list[str], device: str):
    """`(off, on)` of all texts by weights, activations and backend; each made once."""
    made: dict[tuple[str, str, str], tuple[StockRun, StockRun]] = {}

    def run(weights: str, activations: str, backend: str) -> tuple[StockRun, StockRun]:
        key = (weights, activations, backend)
        if key not in made:
            folder = exports(f"gpu-{weights}-{activations}", weights=weights, activations=activations)
            bundle = folder / "model.litertlm"
            off, on = (run_stock(bundle, texts, speculative=mtp, backend=backend) for mtp in (False, True))
            made[key] = (off, on)
        return made[key]

    return run


PAIRS = [(weights, activations) for weights in ("fp32", "int8") for activations in ("fp16", "fp32")]


@pytest.mark.parametrize(("weights", "activations"), PAIRS)
def test_speculative_decoding_changes_no_token_on_the_gpu(weights: str, activations: str, runs) -> None:
    off, on = runs(weights, activations, "gpu")
    # LiteRT-LM finishes the round in which it reaches the context's end.
    assert all(map(str.startswith, on.texts, off.texts))
    assert len(set(off.texts)) == len(off.texts)
    assert all(len(text) > 40 for text in off.texts[NEAR_THE_END:])


def test_float_text_equals_the_cpus(runs) -> None:
    (gpu, _), (cpu, _) = (runs("fp32", "fp32", backend) for backend in ("gpu", "cpu"))
    assert gpu.texts == cpu.texts


@pytest.mark.parametrize(("weights", "activations"), PAIRS)
def test_drafts_are_accepted_as_on_the_cpu(weights: str, activations: str, runs, capsys) -> None:
    """A drafter that read another cache than the target's would still give the right text, but hardly be accepted."""
    (_, gpu), (_, cpu) = (runs(weights, activations, backend) for backend in ("gpu", "cpu"))
    with capsys.disabled():
        rates = f"{gpu.acceptance_rate:.1%} of the drafts on the GPU, {cpu.acceptance_rate:.1%} on the CPU"
        print(f"\n{weights} weights, {activations} activations: accepted {rates}")
    assert gpu.acceptance_rate == pytest.approx(cpu.acceptance_rate, abs=ACCEPTANCE_BOUND)
