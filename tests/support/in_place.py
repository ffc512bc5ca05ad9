"""Faults planted into the models inside a .litertlm file, in place: every byte else stays where it is."""

from __future__ import annotations

import mmap
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gemma_mtp.runtime.bundle.constants import Constant, read_constants
from gemma_mtp.runtime.bundle.container import BundleFile


class Sections:
    """The bytes of a bundle's models, to be changed."""

    def __init__(self, bundle: Path) -> None:
        self.bundle = BundleFile(bundle)
        self._constants: dict[str, tuple[Constant, ...]] = {}
        with bundle.open("r+b") as file:
            self.content = mmap.mmap(file.fileno(), 0)

    def constants(self, model: str) -> tuple[Constant, ...]:
        """All constants of a model."""
        if model not in self._constants:
            content = self.bundle.content(self.bundle.model_sections()[model])
            self._constants[model] = read_constants(content, model).constants
        return self._constants[model]

    def constant(self, model: str, name: str) -> Constant:
        """The weight called `name`, which all signatures use alike."""
        (found,) = [constant for constant in self.constants(model) if constant.name == name]
        return found

    def weight(self, model: str, name: str) -> np.ndarray:
        """Stored numbers in their shape; a view that changes the file."""
        constant = self.constant(model, name)
        return self.view(model, constant.place, constant.dtype).reshape(constant.shape)

    def scales(self, model: str, name: str) -> list[np.ndarray]:
        """A weight's scales, once for each tensor that has them; views that change the file."""
        constant = self.constant(model, name)
        places = [place for place in constant.parameters if place[1] - place[0] == 4 * constant.shape[0]]
        return [self.view(model, place, "float32") for place in places]

    def view(self, model: str, place: tuple[int, int], dtype: str) -> np.ndarray:
        """Bytes of a model as numbers."""
        begin = self.bundle.model_sections()[model].begin
        size = (place[1] - place[0]) // np.dtype(dtype).itemsize
        return np.frombuffer(self.content, dtype, size, begin + place[0])


def with_sections(sound: Path, change: Callable[[Sections], None], folder: Path) -> Path:
    """A copy of the bundle `sound` in `folder`, changed in place."""
    bundle = Path(shutil.copyfile(sound, folder / "model.litertlm"))
    sections = Sections(bundle)
    change(sections)
    sections.content.flush()
    return bundle
