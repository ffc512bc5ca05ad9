"""A LoRA adapter in PEFT's format: which weights of a target it changes, and their changed rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ...runtime.errors import UserError
from ...runtime.fields import is_there, read_object
from .adapter_config import LoraSettings, read_lora_settings
from .forms import ADAPTER_CONFIG, ADAPTER_WEIGHTS, what_it_is
from .hub import PinnedFiles, resolve
from .weights import EMBEDDING, HEAD

# `base_model.model.` is PEFT's own; then comes the path in one of transformers' classes.
_WRAPPERS = ("base_model.model.", "model.", "language_model.", "model.")
_TOWERS = ("vision_tower", "audio_tower", "embed_vision", "embed_audio")
_KINDS = (
    "lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector|base_layer|modules_to_save|token_adapter"
)
_TENSOR = re.compile(rf"(?P<module>.+?)\.(?P<kind>{_KINDS})(?P<rest>(\..+)?)")
# What may stand behind each kind: nothing, the adapter's name (unless it was stripped on saving), `weight`.
_ENDINGS = {"token_adapter": r"\.trainable_tokens_delta(\.\w+)?", "base_layer": r"\.weight"}
_SHARED_KV = re.compile(r"layers\.(\d+)\.self_attn\.[kv]_(proj|norm)\.weight")


@dataclass(frozen=True)
class Change:
    """What one adapter does to one weight, in this order; by the names of the adapter's tensors.

    `base` takes the weight's place, in every module that shares it; `whole` in one module (`modules_to_save`). `down`
    `[r, in]` and `up` `[out, r]` add their product times `scaling` (in an embedding `[r, V]` and `[D, r]`), after which
    each row is scaled to the length in `magnitude` `[out]` (DoRA). `tokens` takes the place of the rows of
    `token_indices`.
    """

    base: str | None = None
    whole: str | None = None
    down: str | None = None
    up: str | None = None
    scaling: float = 1.0
    magnitude: str | None = None
    tokens: str | None = None
    embedding: bool = False


class Adapter:
    """One adapter folder.

    Attributes:
        source: what the person gave.
        folder: where the files are.
        settings: from `adapter_config.json`.
        changes: by the names of the target's weights.
        skipped: number of tensors that change nothing that is exported, by what they belong to.
    """

    def __init__(self, source: str) -> None:
        """Read the settings and the header of the weights; no tensor yet.

        Raises:
            UserError: no PEFT adapter, or one that cannot be merged.
        """
        self.source, self.folder = source, resolve(source)
        self._pinned = PinnedFiles(self.folder)
        self._file = self.folder / ADAPTER_WEIGHTS
        self.settings = _read_settings(self.folder)
        if not self._file.is_file():
            pickle = self.folder / "adapter_model.bin"
            hint = (
                f"; {pickle.name} is a pickle, which is never read: load it with PEFT where you trust it, and save it"
                " with save_pretrained()"
                if pickle.is_file()
                else ""
            )
            raise UserError(f"{self._file}: no such file{hint}")
        self._shapes = self._read_header()
        self.skipped: dict[str, int] = {}
        self.changes = self._read_changes()

    @property
    def name(self) -> str:
        """A hub id as given; of a folder only its own name, as paths differ between machines."""
        return self.folder.absolute().name if Path(self.source).expanduser().is_dir() else self.source

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of the adapter's files, by name.

        Raises:
            UserError: one of them was changed after it was opened.
        """
        return self._pinned.hashes([self.folder / ADAPTER_CONFIG, self._file])

    def check_unchanged(self) -> None:
        """As of a checkpoint."""
        self._pinned.check()

    def fit(self, weights: Mapping[str, tuple[int, ...]], own_kv_layers: int, *, tied: bool) -> None:
        """Check the changes against a target's `weights`, shapes by name, and leave out those that it does not use.

        Args:
            weights: of the decoder, with `lm_head.weight`.
            own_kv_layers: layers from this one on share keys and values; theirs are in older checkpoints only.
            tied: the target's head is its embedding, so that what changes their common parameter changes both.

        Raises:
            UserError: a change of a weight that there is not, or that has another shape.
        """
        for name in list(self.changes):
            shared = _SHARED_KV.fullmatch(name)
            if name not in weights and shared and int(shared[1]) >= own_kv_layers:
                self._skip("unused k/v of KV-sharing layers", self._tensors_of(self.changes.pop(name)))
            elif name not in weights:
                raise UserError(f"{self._file}: changes {name}, which the target does not have: is it another model's?")
            else:
                self._check_shapes(name, self.changes[name], weights[name])
        if not self.changes:
            raise UserError(f"{self._file}: none of its tensors changes the language model; is it the right adapter?")
        if tied:
            self._share(self.changes.get(EMBEDDING, Change()), self.changes.get(HEAD, Change()))

    def _share(self, embedding: Change, head: Change) -> None:
        """What takes the place of the parameter that embedding and head share is both's."""
        common = Change(base=embedding.base or head.base, tokens=embedding.tokens)
        for name, change in ((EMBEDDING, embedding), (HEAD, head)):
            change = replace(change, base=change.base or common.base, tokens=common.tokens)
            if change != Change():
                self.changes[name] = change

    @property
    def unties(self) -> bool:
        """Does it change one of embedding and head only, or each differently?"""
        return self.changes.get(HEAD) != self.changes.get(EMBEDDING)

    def apply(self, name: str, values: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """Rows `rows` of the weight `name`, changed.

        Args:
            name: of the target's weight.
            values: float32 `[len(rows), ...]`, before.
            rows: row numbers of the weight.
        """
        change = self.changes.get(name)
        if change is None:
            return values
        for whole in (change.base, change.whole):
            values = self._rows(whole, rows) if whole else values
        if change.down and change.up:
            values = values + self._delta(change, rows)
        if change.magnitude:
            lengths = torch.linalg.norm(values, dim=1)
            values = (self._rows(change.magnitude, rows) / lengths)[:, None] * values
        if change.tokens:
            values = self._replace_tokens(change.tokens, values, rows)
        return values

    def _delta(self, change: Change, rows: Sequence[int]) -> torch.Tensor:
        assert change.down is not None
        assert change.up is not None
        if change.embedding:
            down = self._rows(change.down, rows, axis=1)  # [r, rows]
            return (self._rows(change.up) @ down).T * change.scaling
        return (self._rows(change.up, rows) @ self._rows(change.down)) * change.scaling

    def _replace_tokens(self, tensor: str, values: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        places = {row: place for place, row in enumerate(rows)}
        trained = self._rows(tensor)
        values = values.clone()
        for token, row in zip(self.settings.token_indices, trained, strict=True):
            if token in places:
                values[places[token]] = row
        return values

    def _rows(self, name: str, rows: Sequence[int] | None = None, *, axis: int = 0) -> torch.Tensor:
        """The given rows (columns with `axis` 1) of a tensor, float32; all of them without."""
        self._pinned.check_file(self._file)
        try:
            with safe_open(self._file, framework="pt") as file:
                part = file.get_slice(name)
                if rows is None:
                    tensor = part[:]
                elif isinstance(rows, range):
                    tensor = part[rows.start : rows.stop] if axis == 0 else part[:, rows.start : rows.stop]
                elif axis == 1:
                    tensor = part[:][:, list(rows)]
                else:
                    tensor = torch.cat([part[row : row + 1] for row in rows])
        except (OSError, SafetensorError) as error:
            raise UserError(f"{self._file}: {name} cannot be read ({error})") from error
        return tensor.float()

    def _read_header(self) -> dict[str, tuple[int, ...]]:
        shapes = {}
        try:
            with safe_open(self._file, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                    part = file.get_slice(name)
                    if part.get_dtype() not in ("BF16", "F16", "F32"):
                        kind = part.get_dtype()
                        raise UserError(f"{self._file}: {name} is stored as {kind}, expected BF16, F16 or F32")
                    shapes[name] = tuple(part.get_shape())
        except (OSError, SafetensorError) as error:
            raise UserError(f"{self._file}: not a whole safetensors file ({error}); copy it again") from error
        return shapes

    def _read_changes(self) -> dict[str, Change]:
        changes: dict[str, Change] = {}
        for name in self._shapes:
            module, field = self._parse(name)
            tower = next((tower for tower in _TOWERS if tower in module.split(".")), None)
            if tower:
                self._skip(tower, 1)
                continue
            weight = f"{_in_decoder(module)}.weight" if field else _in_decoder(module)
            if field is None:  # A tensor under its own name: of a module trained whole, or saved with its embedding.
                field = "whole" if self.settings.saves(module.rpartition(".")[0]) else "base"
            change = changes.get(weight, Change())
            if getattr(change, field) is not None:
                raise UserError(
                    f"{self._file}: both {getattr(change, field)} and {name} are there; expected one adapter"
                )
            changes[weight] = replace(change, **{field: name}, **self._scaling(name, module, field))
        for weight, change in changes.items():
            if bool(change.down) != bool(change.up) or bool(change.magnitude) != (
                self.settings.use_dora and bool(change.up)
            ):
                raise UserError(f"{self._file}: of the adapter of {weight} a part is missing; was it saved whole?")
        return changes

    def _parse(self, name: str) -> tuple[str, str | None]:
        """Module of a tensor, and the field of its Change that it is; None if the tensor has its own name."""
        module_path = name.removeprefix(_WRAPPERS[0])
        found = _TENSOR.fullmatch(module_path)
        if not found:
            return module_path, None
        kind, rest = found["kind"], found["rest"]
        if not re.fullmatch(_ENDINGS.get(kind, r"(\.(?!bias$|lora_)\w+)?(\.weight)?"), rest):
            raise UserError(f"{self._file}: {name} is of no kind that can be merged; merge it with PEFT first")
        fields = {"lora_A": "down", "lora_embedding_A": "down", "lora_B": "up", "lora_embedding_B": "up"}
        fields |= {"lora_magnitude_vector": "magnitude", "base_layer": "base", "modules_to_save": "whole"}
        return found["module"], fields.get(kind, "tokens")

    def _scaling(self, name: str, module: str, field: str) -> dict[str, Any]:
        if field != "down":
            return {}
        rank, found = self.settings.rank(module), self._shapes[name][0]
        if rank != found:
            raise UserError(f"{self._file}: {name} has rank {found}, but {ADAPTER_CONFIG} gives it {rank}")
        embedding = "lora_embedding_A" in name
        if embedding and self.settings.use_dora:
            raise UserError(f"{self._file}: {name} is of a DoRA adapter of an embedding; merge it with PEFT first")
        return {"scaling": self.settings.scaling(module), "embedding": embedding}

    def _check_shapes(self, name: str, change: Change, shape: tuple[int, ...]) -> None:
        expected: dict[str, tuple[int, ...]] = {whole: shape for whole in (change.base, change.whole) if whole}
        if change.down and change.up:
            rank = self._shapes[change.down][0]
            rows, columns = shape if len(shape) == 2 else (0, 0)
            inner, outer = (rows, columns) if change.embedding else (columns, rows)
            expected |= {change.down: (rank, inner), change.up: (outer, rank)}
        if change.magnitude:
            expected[change.magnitude] = (shape[0],)
        if change.tokens:
            expected[change.tokens] = (len(self.settings.token_indices), shape[-1])
        for tensor, wanted in expected.items():
            found = self._shapes[tensor]
            if found != wanted and name in (EMBEDDING, HEAD) and shape[0] not in found:
                raise UserError(
                    f"{self._file}: {tensor} has shape {list(found)}, but the target has {shape[0]} tokens:"
                    " tokens were added in training, which the drafter cannot draft;"
                    " train with Gemma's reserved tokens (<unused0>, ...)"
                )
            if found != wanted:
                raise UserError(
                    f"{self._file}: {tensor} has shape {list(found)}, expected {list(wanted)} for {name} of the target:"
                    " is the adapter another model's?"
                )

    def _tensors_of(self, change: Change) -> int:
        parts = (change.base, change.whole, change.down, change.up, change.magnitude, change.tokens)
        return sum(part is not None for part in parts)

    def _skip(self, group: str, count: int) -> None:
        self.skipped[group] = self.skipped.get(group, 0) + count


def base_model(folder: Path) -> str | None:
    """The model that the adapter in `folder` was trained on, as its trainer called it."""
    return _read_settings(folder).base


def _read_settings(folder: Path) -> LoraSettings:
    path = folder / ADAPTER_CONFIG
    if not is_there(path):
        is_model = (folder / "config.json").is_file()
        hint = "this is a whole model: give it as TARGET" if is_model else what_it_is(folder)
        raise UserError(f"{path}: no such file; {hint or 'expected the folder of a PEFT adapter'}")
    return read_lora_settings(read_object(path), str(path))


def _in_decoder(module: str) -> str:
    """A module's path below the decoder, whichever of transformers' classes it was trained in."""
    for wrapper in _WRAPPERS[1:]:
        module = module.removeprefix(wrapper)
    return module
