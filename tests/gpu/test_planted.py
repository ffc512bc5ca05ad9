"""Each feature that the graphs have for the GPU, taken out: what breaks then. `make test-gpu-slow`.

The CPU runs every one of these bundles rightly, which is why nothing but a GPU run (or the check of graphs) notices.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gemma_mtp.runtime.gpu.check import Finding, check_model
from gemma_mtp.runtime.stock import StockRuntimeError, run_stock
from tests.conftest import DRAFTER, TARGET, Exports
from tests.gpu import planted
from tests.gpu.conftest import MAX_TOKENS, NEAR_THE_END, Runs
from tests.gpu.test_fp16_range import FACTOR, SCALED
from tests.gpu.test_gpu import ACCEPTANCE_BOUND
from tests.support.scaled import scale_weight

pytestmark = [pytest.mark.gpu_slow, pytest.mark.timeout(3600)]
Plant = Callable[[Exports, pytest.MonkeyPatch], Path]


@pytest.fixture
def short(texts: list[str]) -> list[str]:
    return texts[NEAR_THE_END:]


@pytest.fixture
def expected(runs: Runs) -> tuple[str, ...]:
    """The texts of `short`, from the CPU."""
    return runs("fp32", "fp32", "cpu")[0].texts[NEAR_THE_END:]


def findings(bundle: Path) -> list[Finding]:
    return [
        finding
        for model in ("prefill_decode", "mtp_drafter")
        for report in check_model(model, bundle.with_name(f"{model}.tflite").read_bytes())
        for finding in report.findings
    ]


def agree(texts: tuple[str, ...], expected: tuple[str, ...]) -> bool:
    return all(map(str.startswith, texts, expected))


@pytest.mark.parametrize(
    ("plant", "reason"),
    [
        (planted.plain_product_in_drafter, "reads a cache"),
        (planted.no_gather, "aborts on a float32 table"),
    ],
)
def test_gpu_fails_without(
    plant: Plant, reason: str, exports: Exports, short: list[str], expected: tuple[str, ...], capsys
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        bundle = plant(exports, patch)
    cpu = run_stock(bundle, short, speculative=True, max_tokens=MAX_TOKENS)
    assert agree(cpu.texts, expected)
    assert any(finding.reason.startswith(reason) for finding in findings(bundle))
    try:
        gpu = run_stock(bundle, short, speculative=True, backend="gpu", max_tokens=MAX_TOKENS)
        broken = not agree(gpu.texts, expected)
        outcome = f"{'another' if broken else 'the same'} text, {gpu.texts[0][:40]!r}"
    except StockRuntimeError as error:
        broken, outcome = True, str(error).splitlines()[0].rsplit("(", 1)[-1].rstrip(")")
    with capsys.disabled():
        print(f"\n{plant.__name__}: {outcome}")
    assert broken


@pytest.mark.parametrize(
    ("plant", "reason"),
    [
        (planted.no_param_tensor, "takes no param_tensor"),
        (planted.added_mask, "masks attention scores"),
    ],
)
def test_check_refuses_what_a_software_device_forgives(plant: Plant, reason: str, exports: Exports) -> None:
    """So an export for the GPU, and every GPU test with it, fails without these features."""
    with pytest.MonkeyPatch.context() as patch:
        bundle = plant(exports, patch)
    assert any(finding.reason.startswith(reason) for finding in findings(bundle))


def test_drafter_without_its_caches_falls_out_of_the_bound(
    exports: Exports, texts: list[str], runs: Runs, capsys
) -> None:
    """So equal acceptance on both backends says that the drafter reads on the GPU what it reads on the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        bundle = planted.blind_drafter(exports, patch)
    rate = runs("fp32", "fp32", "cpu")[1].acceptance_rate
    blind = run_stock(bundle, texts, speculative=True, max_tokens=MAX_TOKENS).acceptance_rate
    with capsys.disabled():
        print(f"\naccepted {rate:.1%}; {blind:.1%} of a drafter that reads zeros")
    assert blind < rate - max(ACCEPTANCE_BOUND.values())


@pytest.mark.parametrize(
    ("factor", "activations", "right"), [(FACTOR, "fp32", True), (FACTOR, "fp16", False), (64, "fp16", True)]
)
def test_planted_overflow_breaks_float16_only(
    factor: int, activations: str, right: bool, exports: Exports, short: list[str], expected: tuple[str, ...], tmp_path
) -> None:
    """What `fp16-range` says of these copies is what the GPU does with them."""
    target = scale_weight(TARGET, SCALED, factor, tmp_path / "target")
    folder = exports(f"scaled-{factor}-{activations}", target, DRAFTER, activations=activations)
    run = run_stock(folder / "model.litertlm", short, speculative=False, backend="gpu", max_tokens=MAX_TOKENS)
    assert (run.texts == expected) == right
