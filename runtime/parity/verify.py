"""All stages, one after the other: `verify` compares a bundle with the torch models that it was made from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..bundle.contract import Contract
from ..bundle.inspection import inspect_bundle
from ..bundle.loading import bundle_file_in, open_bundle
from ..bundle.names import PREFILL_DECODE
from ..decoding.generation import GenerationOptions
from ..errors import BundleError, UserError
from ..fields import MOST_INTEGER, shown
from ..model import Model
from ..text.prompts import Prompt
from ..threads import thread_count
from .about import about_probe, about_run, about_texts
from .metadata.manifest import manifest_checks
from .oracle.oracle import Oracle
from .report.coverage import read_layout
from .report.report import Report, Stage, Verdict
from .report.thresholds import CACHE_LIMITS, Thresholds, read_thresholds, weight_format
from .stages.contract import contract_stage
from .stages.conversation import conversation_requests, conversation_stage
from .stages.drafter import Answer, drafter_stage, loop_stage
from .stages.exactness import exactness_stage
from .stages.files import files_stage
from .stages.metadata import CheckpointText, metadata_stage
from .stages.probe import make_probe
from .stages.target import Setup, decode_stage, embedders_stage, prefill_stage, run_slots
from .stages.text import generation_stage, stock_stage
from .stages.weights import weights_stage

Progress = Callable[[str, str], None]
STAGES = (
    "files",
    "contract",
    "metadata",
    "weights",
    "embedders",
    "prefill",
    "decode and verify",
    "verify against decode",
    "drafter",
    "loop",
    "generation",
    "stock LiteRT-LM",
    "conversation",
)


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
        if not 1 <= self.max_tokens <= MOST_INTEGER:
            raise UserError(f"--max-tokens: {shown(self.max_tokens)}, expected 1 or more, at most {MOST_INTEGER}")
        if self.probe_tokens is not None and self.probe_tokens < 2:
            raise UserError(f"--probe-tokens: {self.probe_tokens}, expected 2 or more")

    def as_dict(self) -> dict[str, Any]:
        """Everything but the prompts, as plain JSON types."""
        given = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "prompts"}
        return given | {"threads": thread_count(self.threads)}


def verify(
    bundle: Path,
    oracle: Oracle,
    options: VerifyOptions,
    on_progress: Progress | None = None,
    text: CheckpointText | None = None,
) -> Report:
    """Compare `bundle`, a .litertlm file or an export's folder, with `oracle`, stage by stage.

    A fault shows in the first stage whose part of the path it is in, and often in the ones after it.

    Args:
        bundle: what to verify.
        oracle: transformers' models on the checkpoints that the bundle was made from.
        options: what to compare on.
        text: what the checkpoint says around its weights; without, the stages about it are skipped.
        on_progress: called with the name of the stage that runs, and what it does where there is something to say.

    Raises:
        UserError: the bundle cannot be read, a prompt cannot be run, there are no limits for its weight format, or it
            does not name the scales of its caches.
    """
    file = bundle_file_in(bundle)
    stages = _Stages(on_progress)
    inspection = None
    with stages.run("contract"):
        inspection = inspect_bundle(file)
    models = inspection.models if inspection else {}
    stored = models[PREFILL_DECODE].constant_bytes if PREFILL_DECODE in models else {}
    caches = inspection.kv_dtypes if inspection else ()
    name, limits = read_thresholds(options.recipe_thresholds, weight_format(stored), str(bundle), caches)
    about = about_run(
        file, oracle.bytes_needed, len(options.prompts), options.as_dict(), {"name": name, **asdict(limits)}
    )
    if inspection is None:
        return Report(about, tuple(stages.by_name.values()))
    with stages.run("files") as stage:
        if bundle.is_dir():
            files_stage(stage, inspection.bundle, about["bundle_sha256"])
        else:
            stage.skip("the files beside it", "one file was named, not a folder")
        if text is not None:
            manifest_checks(stage, inspection, text.sources)
    opened = None
    with stages.run("contract") as stage:
        try:
            opened = open_bundle(bundle)
        except UserError as error:
            stage.holds("the models fit together", [str(error)])
        else:
            _check_comparable(opened.contract, str(bundle))
            contract_stage(stage, inspection, opened.contract, oracle)
    with stages.run("metadata") as stage:
        if text is None:
            stage.skip("everything", "nothing is known of the checkpoint's tokenizer files")
        else:
            metadata_stage(stage, inspection, text, oracle)
    layout = read_layout(inspection.bundle)
    with stages.run("weights") as stage:
        weights_stage(stage, layout, oracle, lambda detail: stages.tell("weights", detail))
    if opened is None or stages.by_name["contract"].verdict is Verdict.FAIL:
        for other in STAGES[STAGES.index("weights") + 1 :]:
            stages.by_name[other].skip("everything", "the contract does not hold")
    else:
        model = Model(opened, thread_count(options.threads))
        try:
            about |= _compare(stages, file, model, oracle, options, limits, text)
        except UserError as error:
            # With metadata that are not the checkpoint's, the prompt need not be what is wrong.
            if stages.by_name["metadata"].verdict is not Verdict.FAIL:
                raise
            stages.by_name["generation"].holds("the prompts can be run", [str(error)])
    return Report(about, tuple(stages.by_name.values()), layout.coverage(stages.by_name))


def _check_comparable(contract: Contract, where: str) -> None:
    for name, (_, dtype) in contract.decode.cache_inputs.items():
        if dtype not in CACHE_LIMITS:
            raise UserError(f"{where}: {name} is {dtype}; verify compares {', '.join(CACHE_LIMITS)} caches only")
        if dtype == "int8" and name not in contract.cache_scales:
            raise UserError(
                f"{where}: {name} is int8, with a scale that the file does not name (at the tensor, or as scale_k and"
                " scale_v of odml.cache_update); verify cannot read such a cache"
            )


class _Stages:
    """All stages by name; `run` fills one."""

    def __init__(self, on_progress: Progress | None) -> None:
        self.by_name = {name: Stage(name) for name in STAGES}
        self._on_progress = on_progress or (lambda stage, detail: None)

    @contextmanager
    def run(self, name: str, detail: str = "") -> Iterator[Stage]:
        """The block is a part of stage `name`, which fails where the bundle cannot be read; its time counts there."""
        self.tell(name, detail)
        started = time.perf_counter()
        try:
            yield self.by_name[name]
        except BundleError as error:
            self.by_name[name].holds("the bundle can be read", [str(error)])
        self.by_name[name].seconds += time.perf_counter() - started

    def tell(self, name: str, detail: str) -> None:
        self._on_progress(name, detail)


def _compare(
    stages: _Stages,
    file: Path,
    model: Model,
    oracle: Oracle,
    options: VerifyOptions,
    limits: Thresholds,
    text: CheckpointText | None,
) -> dict[str, Any]:
    """All stages after the contract; what the report says of texts and slots that were looked at."""
    rules = model.bundle.rules
    texts = [model.text_of(prompt) for prompt in options.prompts]
    answers: list[Answer] = []
    without_mtp: list[list[int]] = []
    for number, written in enumerate(texts, 1):
        with stages.run("generation", f"answer {number} of {len(texts)}"):
            answer, plain = _answer(model, oracle, written, options.max_tokens)
            answers.append(answer)
            without_mtp.append(plain)
    pool = [[*answer.prompt, *answer.generation.tokens] for answer in answers]
    window = oracle.config.sliding_window
    probe = make_probe(model.engine, pool, rules.context_length, window, options.probe_tokens)
    with stages.run("prefill", f"transformers over {len(probe.tokens)} tokens"):
        setup = Setup(model.engine, oracle, probe, oracle.run(probe.tokens, probe.rows), limits)
    with stages.run("embedders") as stage:
        embedders_stage(stage, setup)
    with stages.run("prefill") as stage:
        prefill_stage(stage, setup)
        if not probe.whole_context:
            stage.skip("the context's end", f"--probe-tokens {options.probe_tokens}")
        if max(probe.slots) <= window:
            stage.skip("beyond the sliding window", f"no slot looked at is past its {window} tokens")
    with stages.run("decode and verify") as stage:
        runs = run_slots(setup)
        decode_stage(stage, setup, runs)
    with stages.run("verify against decode") as stage:
        exactness_stage(stage, setup, runs)
    with stages.run("drafter") as stage:
        drafter_stage(stage, setup)
    with stages.run("loop") as stage:
        loop_stage(stage, setup, answers)
    with stages.run("generation") as stage:
        generation_stage(stage, answers, without_mtp, limits)
    with stages.run("stock LiteRT-LM") as stage:
        if options.stock:
            bare = [written.removeprefix(model.bundle.tokenizer.decode(rules.start)) for written in texts]
            stock_stage(stage, file, bare, answers, options.max_tokens, thread_count(options.threads))
        else:
            stage.skip("everything", "--no-stock")
    with stages.run("conversation") as stage:
        if text is None or not options.stock:
            stage.skip("everything", "--no-stock" if text else "nothing is known of the checkpoint's tokenizer files")
        else:
            asked = [prompt.last_message for prompt in options.prompts if prompt.messages]
            requests = conversation_requests(rules.chat_template, asked)
            threads = thread_count(options.threads)
            conversation_stage(stage, file, requests, text.conversation, options.max_tokens, threads)
    return {"answers": about_texts(options.prompts, answers), **about_probe(probe)}


def _answer(model: Model, oracle: Oracle, text: str, max_tokens: int) -> tuple[Answer, list[int]]:
    """A prompt's answer with MTP and the oracle's pass over it; and its tokens without MTP."""
    prompt = tuple(model.encode(text))
    with_mtp, without = (
        model.stream_tokens(prompt, GenerationOptions(max_tokens=max_tokens, mtp=mtp)).finish() for mtp in (True, False)
    )
    tokens = [*prompt, *with_mtp.tokens]
    truth = oracle.run(tokens, range(len(prompt) - 1, len(tokens) - 1))
    return Answer(prompt, with_mtp, truth), without.tokens
