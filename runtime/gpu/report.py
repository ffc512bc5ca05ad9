"""A bundle on LiteRT-LM's GPU backend: what the check of its graphs and a trial load say, signature by signature."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..bundle.container import BundleFile
from .check import GPU_MODELS, Finding, GraphReport, check_model
from .trial import Trial, try_model


@dataclass(frozen=True)
class GpuReport:
    """Reports and trials of the models that would run on the GPU; `on_cpu` names the others, which never do."""

    graphs: tuple[GraphReport, ...]
    trials: tuple[Trial, ...]
    on_cpu: tuple[str, ...]

    @property
    def taken(self) -> bool:
        """Whether every graph passed the check and no trial load failed; a load that was not tried does not count."""
        return all(graph.taken for graph in self.graphs) and all(trial.taken is not False for trial in self.trials)

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types."""
        return {
            "taken": self.taken,
            "graphs": [{**asdict(graph), "taken": graph.taken} for graph in self.graphs],
            "trial_loads": [asdict(trial) for trial in self.trials],
            "on_cpu": list(self.on_cpu),
        }


def gpu_report(bundle: BundleFile, *, trials: bool = True) -> GpuReport:
    """Check all graphs of `bundle` that would run on the GPU, and load them where `trials`.

    Raises:
        UserError: a model cannot be read.
    """
    sections = bundle.model_sections()
    graphs: list[GraphReport] = []
    loads: list[Trial] = []
    for name in GPU_MODELS:
        if name not in sections:
            continue
        found = check_model(name, bundle.content(sections[name]))
        constraint = str(sections[name].items.get("backend_constraint", "gpu"))
        if "gpu" not in [backend.strip() for backend in constraint.split(",")]:
            closed = Finding(name, "backend_constraint", f"keeps the section to {constraint}")
            found = [GraphReport(g.model, g.signature, g.operators, (closed, *g.findings)) for g in found]
        graphs += found
        if trials:
            loads += try_model(name, bundle.content(sections[name]))
    return GpuReport(tuple(graphs), tuple(loads), tuple(name for name in sections if name not in GPU_MODELS))
