"""All stages, one after the other: `verify` compares a bundle with the torch models that it was made from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..generation import GenerationOptions
from ..inspection import inspect_bundle
from ..loading import bundle_file_in, open_bundle
from ..model import Model, default_threads
from ..prompts import Prompt
from .contract_stage import contract_stage
from .drafter_stages import Answer, drafter_stage, loop_stage
from .oracle import Oracle
from .probe import make_probe
from .report import Report, Stage
from .target_stages import Setup, decode_stage, embedders_stage, exactness_stage, prefill_stage, run_slots
from .text_stages import generation_stage, stock_stage
from .thresholds import read_thresholds, weight_format

STAGES = (
    "contract",
    "embedders",
    "prefill",
    "decode and verify",
    "verify against decode",
    "drafter",
    "loop",
    "generation",
    "stock LiteRT-LM",
)
_PACKAGES = ("ai-edge-litert", "litert-lm", "torch", "transformers")


@dataclass(frozen=True)
class VerifyOptions:
    """What to compare on, and by which limits.

    Attributes:
        prompts: whose answers are compared.
        max_tokens: of each answer.
        probe_tokens: look at positions before this one only; None for the whole context.
        recipe_thresholds: see `read_thresholds`.
        stock: run stock LiteRT-LM, too.
        threads: CPU threads; all cores, at most 4, by default.

    Raises:
        UserError: a value out of range.
    """

    prompts: tuple[Prompt, ...]
    max_tokens: int = 48
    probe_tokens: int | None = None
    recipe_thresholds: str | None = None
    stock: bool = True
    threads: int | None = None

    def __post_init__(self) -> None:
        if not self.prompts:
            raise UserError("no prompt to verify with; expected at least one")
        if self.max_tokens < 1:
            raise UserError(f"--max-tokens: {self.max_tokens}, expected 1 or more")
        if self.probe_tokens is not None and self.probe_tokens < 2:
            raise UserError(f"--probe-tokens: {self.probe_tokens}, expected 2 or more")


def verify(
    bundle: Path, oracle: Oracle, options: VerifyOptions, on_stage: Callable[[str], None] = lambda name: None
) -> Report:
    """Compare `bundle`, a .litertlm file or an export's folder, with `oracle`, stage by stage.

    A fault shows in the first stage whose part of the path it is in, and often in the ones after it.

    Args:
        bundle: what to verify.
        oracle: transformers' models on the checkpoints that the bundle was made from.
        options: what to compare on.
        on_stage: called with each stage's name as it begins.

    Raises:
        UserError: the bundle cannot be read, a prompt cannot be run, or there are no limits for its weight format.
    """
    file = bundle_file_in(bundle)
    inspection = inspect_bundle(file)
    stored = inspection.models["prefill_decode"].constant_bytes if "prefill_decode" in inspection.models else {}
    name, limits = read_thresholds(options.recipe_thresholds, weight_format(stored), str(bundle))
    about = _about(file, oracle, options, name, asdict(limits))
    stages = {stage: Stage(stage) for stage in STAGES}

    @contextmanager
    def stage(title: str, doing: str = "") -> Iterator[Stage]:
        on_stage(doing or title)
        started = time.perf_counter()
        yield stages[title]
        stages[title].seconds += time.perf_counter() - started

    with stage("contract") as current:
        try:
            opened = open_bundle(bundle)
        except UserError as error:
            current.holds("the models fit together", [str(error)])
            opened = None
        else:
            contract_stage(current, inspection, opened.contract, oracle)
    if opened is None or current.verdict.value == "fail":
        for other in STAGES[1:]:
            stages[other].skip("everything", "the contract does not hold")
        return Report(about, tuple(stages.values()))

    model = Model(opened, options.threads or default_threads())
    texts = [prompt.render(model) for prompt in options.prompts]
    with stage("generation", "answers"):
        answers, without_mtp = _answers(model, oracle, texts, options.max_tokens)
    pool = [[*answer.prompt, *answer.generation.tokens] for answer in answers]
    context, window = opened.rules.context_length, oracle.config.sliding_window
    probe = make_probe(model.engine, pool, context, window, options.probe_tokens)
    about["probe"] = {str(slot): why for slot, why in probe.slots.items()}
    setup = Setup(model.engine, oracle, probe, oracle.run(probe.tokens, probe.rows), limits)
    with stage("embedders") as current:
        embedders_stage(current, setup)
    with stage("prefill") as current:
        prefill_stage(current, setup)
        if not probe.whole_context:
            current.skip("the context's end", f"--probe-tokens {options.probe_tokens}")
        if max(probe.slots) <= window:
            current.skip("beyond the sliding window", f"no slot looked at is past its {window} tokens")
    with stage("decode and verify") as current:
        runs = run_slots(setup)
        decode_stage(current, setup, runs)
    with stage("verify against decode") as current:
        exactness_stage(current, setup, runs)
    with stage("drafter") as current:
        drafter_stage(current, setup)
    with stage("loop") as current:
        loop_stage(current, setup, answers)
    model.reset()
    with stage("generation") as current:
        generation_stage(current, answers, without_mtp, limits)
    with stage("stock LiteRT-LM") as current:
        if options.stock:
            start = model.bundle.tokenizer.decode(model.bundle.rules.start)
            bare = [text.removeprefix(start) for text in texts]
            stock_stage(current, file, bare, answers, options.max_tokens, options.threads or default_threads())
        else:
            current.skip("everything", "--no-stock")
    return Report(about, tuple(stages.values()))


def _answers(
    model: Model, oracle: Oracle, texts: Sequence[str], max_tokens: int
) -> tuple[list[Answer], list[list[int]]]:
    """Every prompt's answer with MTP and the oracle's pass over it; and its tokens without MTP."""
    answers, plain = [], []
    for text in texts:
        prompt = tuple(model.encode(text))
        with_mtp, without = (
            model.stream_tokens(prompt, GenerationOptions(max_tokens=max_tokens, mtp=mtp)).finish()
            for mtp in (True, False)
        )
        tokens = [*prompt, *with_mtp.tokens]
        answers.append(Answer(prompt, with_mtp, oracle.run(tokens, range(len(prompt) - 1, len(tokens) - 1))))
        plain.append(without.tokens)
    return answers, plain


def _about(
    file: Path, oracle: Oracle, options: VerifyOptions, limits_name: str, limits: dict[str, float]
) -> dict[str, Any]:
    return {
        "bundle": file.name,
        "oracle": "transformers' Gemma4ForCausalLM and Gemma4AssistantForCausalLM, float32, read layer by layer",
        "oracle_bytes": oracle.bytes_needed,
        "prompts": len(options.prompts),
        "max_tokens": options.max_tokens,
        "limits": {"name": limits_name, **limits},
        "packages": {package: version(package) for package in _PACKAGES},
    }
