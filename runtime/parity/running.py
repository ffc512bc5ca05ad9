"""The stages that run a bundle's models, on texts of its own and on a probe of the whole context."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..decoding.generation import Generation, GenerationOptions
from ..model import Model
from ..threads import thread_count
from .about import about_probe, about_texts
from .options import VerifyOptions
from .oracle.oracle import Oracle
from .report.report import Stage
from .report.thresholds import Thresholds
from .stage_runs import StageRuns
from .stages.conversation import conversation_requests, conversation_stage
from .stages.drafter import Answer, drafter_stage, loop_stage
from .stages.exactness import exactness_stage
from .stages.metadata import CheckpointText
from .stages.probe import Probe, make_probe
from .stages.target import Setup, decode_stage, embedders_stage, prefill_stage, run_slots
from .stages.text import generation_stage, stock_stage


@dataclass(frozen=True)
class _Spoken:
    """A prompt's text and tokens, and the bundle's answers with and without MTP."""

    text: str
    prompt: tuple[int, ...]
    with_mtp: Generation
    without: Generation


@dataclass(frozen=True)
class Comparison:
    """A bundle whose models can be run, and what they are compared with.

    Attributes:
        file: the bundle.
        model: the same, opened.
        oracle: transformers' models on its checkpoints.
        options: what to compare on.
        limits: by which the stages judge.
        text: what the checkpoint says around its weights, if that is known.
        stages: to fill.
    """

    file: Path
    model: Model
    oracle: Oracle
    options: VerifyOptions
    limits: Thresholds
    text: CheckpointText | None
    stages: StageRuns

    def run(self, about: dict[str, Any]) -> None:
        """All stages from the embedders on; `about` gets what texts and slots were looked at.

        Raises:
            UserError: a prompt cannot be run.
        """
        texts = [self.model.text_of(prompt) for prompt in self.options.prompts]
        spoken = [self._speak(text, f"answer {number} of {len(texts)}") for number, text in enumerate(texts, 1)]
        about["answers"] = about_texts(self.options.prompts, [each.with_mtp for each in spoken])
        pool = [[*each.prompt, *each.with_mtp.tokens] for each in spoken]
        engine, window = self.model.engine, self.oracle.config.sliding_window
        context = self.model.bundle.rules.context_length
        probe = make_probe(engine, pool, context, window, self.options.probe_tokens)
        about |= about_probe(probe)
        setup = self._steps(probe)
        answers = [
            self._with_truth(each, f"transformers over answer {number} of {len(texts)}")
            for number, each in enumerate(spoken, 1)
        ]
        with self.stages.run("loop") as stage:
            loop_stage(stage, setup, answers)
        with self.stages.run("generation") as stage:
            generation_stage(stage, answers, [each.without.tokens for each in spoken], self.limits)
        self._on_stock(texts, answers)

    def _speak(self, text: str, detail: str) -> _Spoken:
        with self.stages.run("generation", detail):
            prompt = tuple(self.model.encode(text))
            with_mtp, without = (
                self.model.stream_tokens(
                    prompt, GenerationOptions(max_tokens=self.options.max_tokens, mtp=mtp)
                ).finish()
                for mtp in (True, False)
            )
        return _Spoken(text, prompt, with_mtp, without)

    def _with_truth(self, spoken: _Spoken, detail: str) -> Answer:
        with self.stages.run("loop", detail):
            tokens = [*spoken.prompt, *spoken.with_mtp.tokens]
            truth = self.oracle.run(tokens, range(len(spoken.prompt) - 1, len(tokens) - 1))
        return Answer(spoken.prompt, spoken.with_mtp, truth)

    def _steps(self, probe: Probe) -> Setup:
        """Embedders to drafter: one pass over the probe, and steps at its slots."""
        run = self.stages.run
        with run("prefill", f"transformers over {len(probe.tokens)} tokens"):
            truth = self.oracle.run(probe.tokens, probe.rows)
        setup = Setup(self.model.engine, self.oracle, probe, truth, self.limits)
        with run("embedders") as stage:
            embedders_stage(stage, setup)
        with run("prefill") as stage:
            prefill_stage(stage, setup)
            self._note_what_is_left_out(stage, probe)
        with run("decode and verify") as stage:
            runs = run_slots(setup)
            decode_stage(stage, setup, runs)
        with run("verify against decode") as stage:
            exactness_stage(stage, setup, runs)
        with run("drafter") as stage:
            drafter_stage(stage, setup)
        return setup

    def _note_what_is_left_out(self, stage: Stage, probe: Probe) -> None:
        window = self.oracle.config.sliding_window
        if not probe.whole_context:
            stage.skip("the context's end", f"--probe-tokens {self.options.probe_tokens}")
        if max(probe.slots) <= window:
            stage.skip("beyond the sliding window", f"no slot looked at is past its {window} tokens")

    def _on_stock(self, texts: list[str], answers: list[Answer]) -> None:
        """Stock LiteRT-LM: the same prompts, and conversations."""
        options, bundle = self.options, self.model.bundle
        threads = thread_count(options.threads)
        with self.stages.run("stock LiteRT-LM") as stage:
            if options.stock:
                bare = [text.removeprefix(bundle.tokenizer.decode(bundle.rules.start)) for text in texts]
                stock_stage(stage, self.file, bare, answers, options.max_tokens, threads, options.context_length)
            else:
                stage.skip("everything", "--no-stock")
        with self.stages.run("conversation") as stage:
            if self.text is None or not options.stock:
                reason = "nothing is known of the checkpoint's tokenizer files" if options.stock else "--no-stock"
                stage.skip("everything", reason)
            else:
                asked = [prompt.last_message for prompt in options.prompts if prompt.messages]
                requests = conversation_requests(bundle.rules.chat_template, asked)
                conversation_stage(
                    stage,
                    self.file,
                    requests,
                    self.text.conversation,
                    options.max_tokens,
                    threads,
                    context_length=options.context_length,
                )
