"""All stages, one after the other: `verify` compares a bundle with the torch models that it was made from."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..bundle.contract import Contract
from ..bundle.inspection import Inspection, inspect_bundle
from ..bundle.loading import OpenBundle, bundle_file_in, open_bundle
from ..errors import UserError
from ..model import Model
from ..threads import thread_count
from .about import about_run
from .metadata.manifest import manifest_checks
from .options import VerifyOptions
from .oracle.oracle import Oracle
from .report.coverage import Layout, read_layout
from .report.report import Report
from .report.thresholds import AS_STORED, CACHE_LIMITS, Thresholds, read_thresholds, weight_format
from .running import Comparison
from .stage_runs import Progress, StageRuns
from .stages.contract import contract_stage
from .stages.files import files_stage
from .stages.metadata import CheckpointText, metadata_stage
from .stages.weights import weights_stage
from .weights.as_stored import oracle_as_stored

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
    stages = StageRuns(STAGES, on_progress, stop_at_first_failure=options.stop_at_first_failure)
    inspection = layout = None
    with stages.until_stopped(), stages.run("contract"):
        inspection = inspect_bundle(file)
    models = inspection.models if inspection else {}
    stored = sum((Counter(model.constant_bytes) for model in models.values()), Counter[str]())
    caches = inspection.kv_dtypes if inspection else ()
    name, limits = read_thresholds(options.recipe_thresholds, weight_format(stored), str(bundle), caches)
    about = about_run(
        file, oracle.bytes_needed, len(options.prompts), options.as_dict(), {"name": name, **asdict(limits)}
    )
    if inspection is not None:
        work = _Verification(bundle, inspection, oracle, options, limits, text, stages)
        as_stored = weight_format(stored) in AS_STORED
        with stages.until_stopped():
            opened = work.look_around(about["bundle_sha256"])
            layout = work.weights()
            if as_stored and layout is not None:
                work = replace(work, oracle=oracle_as_stored(oracle, layout.constants))
            work.run_models(opened, about)
    return Report(about, stages.in_order, layout.coverage(stages.by_name) if layout else ())


@dataclass(frozen=True)
class _Verification:
    """A bundle whose models could be read, and what it is compared with; see `verify`."""

    bundle: Path
    inspection: Inspection
    oracle: Oracle
    options: VerifyOptions
    limits: Thresholds
    text: CheckpointText | None
    stages: StageRuns

    def look_around(self, sha256: str) -> OpenBundle | None:
        """Files, contract and metadata; what can be run, if anything can be."""
        with self.stages.run("files") as stage:
            if self.bundle.is_dir():
                files_stage(stage, self.inspection.bundle, sha256)
            else:
                stage.skip("the files beside it", "one file was named, not a folder")
            if self.text is not None:
                manifest_checks(stage, self.inspection, self.text.sources)
        opened = None
        with self.stages.run("contract") as stage:
            try:
                opened = open_bundle(self.bundle, self.inspection.models, self.options.context_length)
            except UserError as error:
                stage.holds("the models fit together", [str(error)])
            else:
                _check_comparable(opened.contract, str(self.bundle))
                contract_stage(stage, self.inspection, opened.contract, self.oracle)
        with self.stages.run("metadata") as stage:
            if self.text is None:
                stage.skip("everything", "nothing is known of the checkpoint's tokenizer files")
            else:
                metadata_stage(stage, self.inspection, self.text, self.oracle)
        return opened

    def weights(self) -> Layout | None:
        """Every weight; the bundle's bytes, with a mark on what was compared. None if they cannot be read."""
        layout = None
        with self.stages.run("weights") as stage:
            layout = read_layout(self.inspection.bundle)
            weights_stage(stage, layout, self.oracle, lambda detail: self.stages.tell("weights", detail))
        return layout

    def run_models(self, opened: OpenBundle | None, about: dict[str, Any]) -> None:
        """All stages from the embedders on, where the contract holds; `about` gets what they looked at."""
        if opened is None or self.stages.failed("contract"):
            self.stages.skip_others("the contract does not hold")
            return
        model = Model(opened, thread_count(self.options.threads))
        file = self.inspection.bundle.path
        comparison = Comparison(file, model, self.oracle, self.options, self.limits, self.text, self.stages)
        try:
            comparison.run(about)
        except UserError as error:
            # With metadata that are not the checkpoint's, the prompt need not be what is wrong.
            if not self.stages.failed("metadata"):
                raise
            self.stages.by_name["generation"].holds("the prompts can be run", [str(error)])


def _check_comparable(contract: Contract, where: str) -> None:
    for name, (_, dtype) in contract.decode.cache_inputs.items():
        if dtype not in CACHE_LIMITS:
            raise UserError(f"{where}: {name} is {dtype}; verify compares {', '.join(CACHE_LIMITS)} caches only")
        if dtype == "int8" and name not in contract.cache_scales:
            raise UserError(
                f"{where}: {name} is int8, with a scale that the file does not name (at the tensor, or as scale_k and"
                " scale_v of odml.cache_update); verify cannot read such a cache"
            )
