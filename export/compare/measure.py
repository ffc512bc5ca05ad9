"""One recipe's price: exported, run, and compared with transformers' models on the checkpoint's own weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ...quantize.formats import FP32
from ...quantize.recipes import Recipe, Rule
from ...runtime.benchmark import measure_costs
from ...runtime.decoding.generation import GenerationOptions
from ...runtime.decoding.statistics import Statistics
from ...runtime.errors import UserError
from ...runtime.model import Model, load
from ...runtime.parity.oracle.oracle import Oracle
from ...runtime.parity.report.measures import kl_divergence
from ...runtime.scratch import scratch_folder
from ...runtime.text.prompts import Prompt
from ..checkpoint.pair import Pair
from ..options import ExportOptions
from ..pipeline import export
from ..progress import Reporter
from .estimates import Estimate, Ratio, ratio
from .sizes import Shapes, component_bytes

Progress = Callable[[str, str], None]
BASE = "fp32"
_REPETITIONS = 10


@dataclass(frozen=True)
class Price:
    """What a recipe costs on given prompts.

    Attributes:
        recipe: its name.
        components: bytes of weights by component, with scales.
        bundle_bytes: of the whole bundle.
        perplexity: of the prompts' own tokens.
        kl: KL divergence of next-token distributions from transformers' in nats, its sum over each prompt's tokens, and
            how many these are.
        top1: share of those tokens after which both find the same token most probable.
        acceptance: drafted tokens that the target accepts in greedy answers, and all drafted ones, by prompt.
        tokens_per_pass: mean tokens for each pass of the target.
        acceptance_float_drafter: `acceptance` with the drafter in float32; None if it was not measured.
        seconds: of one decode step, one verify pass of the drafted tokens and one more, and one draft step, medians.
    """

    recipe: str
    components: dict[str, int]
    bundle_bytes: int
    perplexity: float
    kl: Ratio
    top1: float
    acceptance: Ratio
    tokens_per_pass: float | None
    acceptance_float_drafter: Ratio | None
    seconds: dict[str, float]

    def acceptance_loss(self, base: Price) -> Estimate | None:
        """How much of the acceptance of `base` is lost, as a share of it; negative where it gained."""
        return self.acceptance.lost(base.acceptance)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types; `..._error` are standard errors."""
        found = asdict(self)
        for name in ("kl", "acceptance", "acceptance_float_drafter"):
            counts: Ratio | None = getattr(self, name)
            estimate = counts.estimate if counts else None
            found[name] = estimate.value if estimate else None
            found[f"{name}_error"] = estimate.error if estimate else None
        drafts = zip(self.acceptance.over, self.acceptance.under, strict=True)
        found["drafts_by_prompt"] = [{"accepted": accepted, "drafted": drafted} for accepted, drafted in drafts]
        return found


@dataclass(frozen=True)
class Comparison:
    """What all recipes are measured on.

    `oracle` is transformers' models on the checkpoints of `pair`; `options` are of every export, but for the recipe;
    `prompts` are held-out text and what answers of `max_tokens` begin with.
    """

    pair: Pair
    options: ExportOptions
    oracle: Oracle
    prompts: tuple[Prompt, ...]
    max_tokens: int
    skeletons: Path | None
    threads: int | None = None

    def price(self, recipe: Recipe, on_progress: Progress, *, float_drafter: bool = True) -> Price:
        """Export with `recipe`, measure, and delete the bundle again; then, if `float_drafter`, the same with the
        drafter in float32.

        Raises:
            UserError: the recipe does not fit the pair, or a prompt the context.
        """
        shapes = Shapes("pair", self.pair.target_config, self.pair.drafter_config)
        components = component_bytes(shapes, recipe, self.options.backends)
        on_progress(recipe.name, "exporting")
        with _exported(self, recipe) as (path, model):
            size = path.stat().st_size
            on_progress(recipe.name, "text")
            kl, top1, perplexity = self._text(model)
            on_progress(recipe.name, "acceptance")
            answers = self._answers(model)
            on_progress(recipe.name, "costs of single steps")
            costs = measure_costs(model.engine, _REPETITIONS)
        verify = costs.held_pass(self.options.draft_tokens + 1)
        with_float_drafter = None
        if float_drafter and components.get("drafter.head") and not _stores_drafter_exactly(recipe):
            on_progress(recipe.name, "float drafter")
            with _exported(self, _with_float_drafter(recipe)) as (_, model):
                with_float_drafter = _accepted(self._answers(model))
        total = Statistics()
        for answer in answers:
            total.merge(answer)
        return Price(
            recipe.name, components, size, perplexity, kl, top1, _accepted(answers), total.tokens_per_pass,
            with_float_drafter,
            {"decode": costs.decode, "verify": verify, "draft": costs.draft},
        )  # fmt: skip

    def _text(self, model: Model) -> tuple[Ratio, float, float]:
        """KL, top-1 agreement and perplexity over the tokens of all prompts."""
        divergences, same, losses = [], [], []
        for number, prompt in enumerate(self.prompts, 1):
            tokens = model.encode(model.text_of(prompt))
            if len(tokens) > self.options.context_length:
                raise UserError(
                    f"--prompts: prompt {number} has {len(tokens)} tokens, the context {self.options.context_length}"
                )
            truth = self.oracle.run(tokens, range(len(tokens) - 1))
            divergence = 0.0
            for slot, (token, following) in enumerate(pairwise(tokens)):
                found = model.engine.decode(token, slot).logits[0]
                wanted = truth.logits_at(slot)
                divergence += kl_divergence(wanted, found)
                same.append(int(found.argmax()) == int(wanted.argmax()))
                losses.append(float(np.logaddexp.reduce(found.astype(np.float64)) - found[following]))
            divergences.append((divergence, len(tokens) - 1))
            model.reset()
        return ratio(divergences), float(np.mean(same)), float(np.exp(np.mean(losses)))

    def _answers(self, model: Model) -> list[Statistics]:
        answers = []
        for prompt in self.prompts:
            model.reset()
            answer = model.stream_prompt(prompt, GenerationOptions(max_tokens=self.max_tokens)).finish()
            answers.append(answer.statistics)
        return answers


def _accepted(answers: Sequence[Statistics]) -> Ratio:
    return ratio([(answer.accepted, answer.drafted) for answer in answers])


@contextlib.contextmanager
def _exported(comparison: Comparison, recipe: Recipe) -> Iterator[tuple[Path, Model]]:
    """The bundle of a recipe and what runs it, while the block runs; its files are removed afterwards."""
    with scratch_folder("compare") as folder:
        options = replace(comparison.options, recipe=recipe)
        path = export(comparison.pair, options, folder / "out", _silent(), skeleton_cache=comparison.skeletons)
        yield path, load(path, comparison.threads)


def _silent() -> Reporter:
    from rich.console import Console

    return Reporter(Console(stderr=True), quiet=True)


def _with_float_drafter(recipe: Recipe) -> Recipe:
    return replace(recipe, rules=(Rule(("drafter.*",), FP32, optional=True), *(_optional(recipe.rules))))


def _optional(rules: Sequence[Rule]) -> list[Rule]:
    return [replace(rule, optional=True) for rule in rules]


def _stores_drafter_exactly(recipe: Recipe) -> bool:
    return {rule.stored_as for rule in recipe.rules} == {FP32}
