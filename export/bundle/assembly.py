"""Models traced, bound and written into a bundle: what needs little tracing is written while the rest is traced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...runtime.bundle.names import EMBEDDER, PER_LAYER_EMBEDDER, PREFILL_DECODE
from ..checkpoint.pair import Pair
from ..checkpoint.quantized.kept import stored_parts
from ..checkpoint.weights import EMBEDDING
from ..graphs.bind import BoundModel, bind, share_weight, write_model
from ..graphs.cache_scales import set_cache_scales
from ..graphs.inline import inline_composites
from ..graphs.plan import ModelPlan
from ..graphs.skeleton import merge
from ..graphs.slots.blocks import SLOTS_PER_BLOCK, loop_over_blocks
from ..graphs.slots.lengths import measure_caches
from ..graphs.storage import Stored, shares_table
from ..graphs.tracing.convert import Conversion, conversion
from ..graphs.tracing.skeleton_cache import SkeletonCache
from ..graphs.tracing.tracers import Tracers
from ..models.kv_cache import KVSignature
from ..parallel import Background, background
from ..progress import Advance, Expected, Reporter
from ..staging import names_failure
from .packing import MODELS, BundleWriter, in_blocks

# What can be written while the others are traced: their graphs are two operators each.
_FIRST = (PER_LAYER_EMBEDDER, EMBEDDER)
_TRACING, _READING = "Tracing graphs", "Hashing the checkpoints"
HASHING = "Hashing the bundle"
# Seconds for a graph and for a byte, until an export has measured its own; on 2 cores of a server's processor.
_GRAPH_SECONDS, _WRITTEN_SECONDS, _HASHED_SECONDS = 3.0, 1 / 400e6, 1 / 1.5e9


@dataclass(frozen=True)
class Assembly:
    """What the models of a bundle are made from, and who is told.

    `stored` is how every weight is stored; `scales` are those of int8 caches by name; `backends` those that target and
    drafter are for.
    """

    pair: Pair
    kv: KVSignature
    models: Mapping[str, ModelPlan]
    stored: Stored
    scales: Mapping[str, float]
    backends: Sequence[str]
    reporter: Reporter
    cache: SkeletonCache | None = None
    tracers: Tracers | None = None
    show_converter_output: bool = False

    def expect(self) -> None:
        """Tell the reporter what is to come."""
        graphs = sum(len(model.signatures) for model in self.models.values())
        sizes = {name: self._bytes(name) for name in self.models}
        self.reporter.expect(
            [
                Expected(_TRACING, graphs, _GRAPH_SECONDS),
                Expected(_READING, self._source_bytes, _HASHED_SECONDS),
                *(Expected(f"Writing {name}", count, _WRITTEN_SECONDS) for name, count in sizes.items() if count),
                Expected(HASHING, sum(sizes.values()), _HASHED_SECONDS),
            ]
        )

    def write(self, writer: BundleWriter, bundle: Path) -> None:
        """Write all models with `writer` into the file `bundle`; the checkpoints' hashes are taken beside it.

        Raises:
            UserError: a checkpoint cannot be read or has changed, or there is no room.
            ConversionError: the converter failed.
        """
        first = [name for name in _FIRST if not (self._shares_table and name == EMBEDDER)]
        rest = [name for name in self.models if name not in first]
        signatures = [signature for model in self.models.values() for signature in model.signatures]
        with background(self._hash_sources) as hashing:
            with (
                self.reporter.stage(_TRACING, len(signatures), lines=True) as advance,
                names_failure("tracing graphs", bundle.parent),
                conversion(
                    signatures, cache=self.cache, running=self.tracers, show_output=self.show_converter_output
                ) as graphs,
            ):
                traced = self._take(graphs, first, advance, [hashing])

                def write_first(writing: Background[None]) -> None:
                    # Two that read a disk at different places at a time are slower than one after the other.
                    writing.wait_for(hashing)
                    self._write(first, traced, writer, bundle, writing)

                with background(write_first) as writing:
                    others = self._take(graphs, rest, advance, [hashing, writing])
            self._check_sources()
            self._write(rest, others, writer, bundle, hashing)
        self._check_sources()

    def _take(
        self, graphs: Conversion, names: Iterable[str], advance: Advance, beside: Iterable[Background[None]]
    ) -> dict[str, bytes]:
        """The graphs of the models `names`, when all are traced; what fails `beside` is raised meanwhile."""

        def on_progress(name: str) -> None:
            advance(1, name)
            for work in beside:
                work.raise_failure()

        return graphs.take([s.name for name in names for s in self.models[name].signatures], on_progress)

    def _write(
        self,
        names: Iterable[str],
        traced: Mapping[str, bytes],
        writer: BundleWriter,
        bundle: Path,
        work: Background[None],
    ) -> None:
        """Write models one after the other; `work` may be told to stop, or fail."""
        bound = {name: self._bind(name, traced) for name in names}
        own = {}
        if self._shares_table and EMBEDDER in bound:
            own = {EMBEDDER: bound[EMBEDDER].head}
            share_weight(bound[PREFILL_DECODE], bound[EMBEDDER], in_blocks(bound[EMBEDDER].head))
        puts = {}
        for name in MODELS:
            if name in bound:
                with names_failure(f"writing {name}", bundle):
                    puts[name] = writer.place(name, bound[name].size, own.get(name))
        for name, model in bound.items():
            title = f"Writing {name}"
            with (
                names_failure(title.lower(), bundle),
                self.reporter.stage(title, self._bytes(name), in_bytes=True) as advance,
            ):

                def on_bytes(count: int, advance: Advance = advance) -> None:
                    advance(count, "")
                    work.check()
                    work.raise_failure()

                plan, stored = self.models[name], self.stored[name]
                write_model(
                    model,
                    lambda weight, plan=plan, stored=stored: stored_parts(
                        plan.checkpoint, plan.config, weight, stored[weight.name]
                    ),
                    puts[name],
                    on_bytes,
                )

    def _bind(self, name: str, traced: Mapping[str, bytes]) -> BoundModel:
        model = self.models[name]
        skeleton = merge([traced[signature.name] for signature in model.signatures])
        set_cache_scales(skeleton, self.scales)
        if self.kv.is_placeholder:
            measure_caches(skeleton, self.kv.length)
        loop_over_blocks(skeleton, self.pair.target_config.sliding.window or SLOTS_PER_BLOCK)
        if "gpu" not in self.backends:
            inline_composites(skeleton)
        first = EMBEDDING if self._shares_table and name == PREFILL_DECODE else None
        return bind(skeleton, model.weights, self.stored[name], first)

    @property
    def _shares_table(self) -> bool:
        return shares_table(self.models, self.stored)

    def _bytes(self, name: str) -> int:
        if self._shares_table and name == EMBEDDER:
            return 0  # Written with the target.
        return sum(
            self.stored[name][weight.name].format.data_bytes(weight.shape)
            for weight in self.models[name].weights.values()
        )

    @property
    def _source_bytes(self) -> int:
        return self.pair.target.bytes + self.pair.drafter.bytes

    def _hash_sources(self, work: Background[None]) -> None:
        """Read every byte of the checkpoints: while graphs are traced the disk has nothing else to do, and what fits
        into memory is there when it is needed."""
        with self.reporter.stage(_READING, self._source_bytes, in_bytes=True) as advance:

            def on_bytes(count: int) -> None:
                work.check()
                advance(count, "")

            for checkpoint in (self.pair.target, self.pair.drafter):
                checkpoint.read_hashes(on_bytes)

    def _check_sources(self) -> None:
        """Check that everything that was read came from the checkpoints as they were opened, and still are."""
        self.pair.target.check_unchanged()
        self.pair.drafter.check_unchanged()
