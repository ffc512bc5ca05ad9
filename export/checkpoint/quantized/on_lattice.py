"""Whether a checkpoint's matrices lie on a lattice of 4-bit codes in blocks, as of training for Q4_0, and what each
format would make of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ....quantize.formats import storage
from ....quantize.lattice import find_lattice
from ....quantize.tensors import dequantize, store
from ..files import Checkpoint
from ..weights import Role, Weight

BLOCK = 32
RECIPE = "q4_0"
_MATRICES, _ROWS = 12, 8  # That are looked at, evenly spread.
_SHARE = 0.9
_FORMATS = {RECIPE: storage("int4_block32", "lattice"), "int8": storage("int8"), "int4": storage("int4")}


@dataclass(frozen=True)
class OnLattice:
    """What was found of blocks of 32 that were looked at.

    Attributes:
        share: that lie on a lattice of 4 bits.
        kept: that LiteRT's codes and scales give exactly; of the others the largest code would be +8.
        errors: root of the mean square of what a format changes, of that of the values; by recipe.
    """

    share: float
    kept: float
    errors: dict[str, float]


def look(checkpoint: Checkpoint, weights: Iterable[Weight]) -> OnLattice | None:
    """Look at some rows of some matrices among `weights`; None where there is nothing to look at.

    Raises:
        UserError: a tensor cannot be read.
    """
    matrices = [
        weight
        for weight in weights
        if weight.role is Role.LINEAR
        and weight.name.startswith("layers.")
        and not weight.shape[1] % BLOCK
        and checkpoint.trained_bits(weight.source or "") is None
    ]
    exact: list[np.ndarray] = []
    signed: list[np.ndarray] = []
    changed, whole = dict.fromkeys(_FORMATS, 0.0), 0.0
    for weight in matrices[:: max(1, len(matrices) // _MATRICES)]:
        assert weight.source is not None
        rows = sorted({int(row) for row in np.linspace(0, weight.shape[0] - 1, _ROWS)})
        values = checkpoint.read_rows_at(weight.source, rows).numpy()
        if not np.isfinite(values).all():
            continue  # Named when the weight is read.
        blocks = values.reshape(-1, BLOCK)
        exact.append(find_lattice(blocks, 4, half=True).exact)
        signed.append(exact[-1] | find_lattice(-blocks, 4, half=True).exact)
        whole += float(np.square(values, dtype=np.float64).sum())
        for name, stored_as in _FORMATS.items():
            off = dequantize(store(values, stored_as), stored_as, values.shape) - values
            changed[name] += float(np.square(off, dtype=np.float64).sum())
    if not exact or not whole:
        return None
    errors = {name: (total / whole) ** 0.5 for name, total in changed.items()}
    return OnLattice(float(np.concatenate(signed).mean()), float(np.concatenate(exact).mean()), errors)


def lattice_note(role: str, found: OnLattice | None) -> str | None:
    """What a person should know of a checkpoint whose matrices lie on a lattice; None of any other."""
    if found is None or found.share < _SHARE:
        return None
    rest = "" if found.kept > 1 - 1e-9 else "; the others need a code of +8, which LiteRT has not, and are rounded"
    errors = ", ".join(f"{name} {error:.2%}" for name, error in sorted(found.errors.items(), key=lambda each: each[1]))
    return (
        f"{role}: {found.share:.0%} of its matrices' blocks of {BLOCK} lie on a lattice of 4 bits, as after training"
        f" for Q4_0; --weights {RECIPE}, for --backends cpu, keeps {found.kept:.0%} of them exactly{rest}."
        f" What recipes change in them, root mean square: {errors}"
    )
