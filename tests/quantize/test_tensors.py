"""Every format and algorithm gives ai-edge-quantizer's own bytes, block by block, and comes back within its bound."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_quantizer import qtyping, quantizer, recipe_manager
from ai_edge_quantizer.algorithm_manager import AlgorithmName

from gemma_mtp.quantize.formats import FORMATS, Storage, storage
from gemma_mtp.quantize.tensors import dequantize, store

ALGORITHMS = {
    "min_max": AlgorithmName.MIN_MAX_UNIFORM_QUANT,
    "octav": AlgorithmName.OCTAV,
    "mse": AlgorithmName.MSE,
    "recovery": AlgorithmName.DEQUANTIZED_WEIGHT_RECOVERY,
}
# "lattice" is this project's own: tests/quantized/test_lattice.py.
INTEGER = [
    storage(form.name, algorithm)
    for form in FORMATS.values()
    for algorithm in form.algorithms
    if algorithm in ALGORITHMS
]
TYPES = {"fp16": schema.TensorType.FLOAT16, "int8": schema.TensorType.INT8, "int4": schema.TensorType.INT4}
TYPES["int2"] = schema.TensorType.INT2
ROWS, COLUMNS = 96, 256
VALUES = np.random.default_rng(0).standard_t(4, (ROWS, COLUMNS)).astype(np.float32)


class Lookup(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.linear = torch.nn.Embedding(64, COLUMNS), torch.nn.Linear(COLUMNS, 32, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.linear(self.table(ids))


def lattice(stored_as: Storage, values: np.ndarray) -> np.ndarray:
    """Values that recovery finds again: those of the nearest codes, at steps that a short mantissa holds."""
    form = stored_as.format
    steps = np.exp2(np.round(np.log2(np.abs(values).max(axis=1, keepdims=True)))) / 2 ** (form.bits - 1)
    most = 2 ** (form.bits - 1) - 1
    return (np.clip(np.rint(values / steps), -most, most) * steps).astype(np.float32)


@pytest.fixture(scope="module")
def float_model(tmp_path_factory: pytest.TempPathFactory):
    """A function from changed values to the file and weights of a small float model."""
    import litert_torch

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("float")
    model = Lookup().eval()
    made: dict[str, tuple[Path, list[np.ndarray]]] = {}

    def make(name: str, change) -> tuple[Path, list[np.ndarray]]:
        if name not in made:
            for weight in (model.table.weight, model.linear.weight):
                weight.data = torch.from_numpy(change(weight.detach().numpy()))
            path = folder / f"{name}.tflite"
            litert_torch.convert(model, (torch.zeros(3, dtype=torch.int32),)).export(str(path))
            made[name] = path, [w.detach().numpy().copy() for w in (model.table.weight, model.linear.weight)]
        return made[name]

    return make


def theirs(path: Path, stored_as: Storage) -> dict[tuple[int, ...], tuple[bytes, np.ndarray | None]]:
    """Bytes and scales of each weight of the float model in `path`, quantized by ai-edge-quantizer, by shape."""
    form, manager = stored_as.format, recipe_manager.RecipeManager()
    if form.is_float:
        config = qtyping.OpQuantizationConfig(
            weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
            compute_precision=qtyping.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        )
        manager.add_quantization_config(".*", qtyping.TFLOperationName.ALL_SUPPORTED, config, "float_casting")
    else:
        granularity = f"BLOCKWISE_{form.block}" if form.block else "CHANNELWISE"
        manager.add_dynamic_config(
            ".*", qtyping.TFLOperationName.ALL_SUPPORTED, form.bits, qtyping.QuantGranularity[granularity],
            ALGORITHMS[stored_as.algorithm or ""],
        )  # fmt: skip
    content = quantizer.Quantizer(str(path), manager.get_quantization_recipe()).quantize().quantized_model
    model = schema.ModelT.InitFromPackedBuf(bytes(content), 0)
    found = {}
    (graph,) = model.subgraphs
    for tensor in graph.tensors:
        if tensor.type != TYPES[form.name.partition("_")[0]] or model.buffers[tensor.buffer].data is None:
            continue
        details = tensor.quantization.details if tensor.quantization else None
        if details is not None:
            scales = bytes(bytearray(model.buffers[graph.tensors[details.scales].buffer].data))
            scales = np.frombuffer(scales, np.float16)
        else:
            scales = None if form.is_float else np.asarray(tensor.quantization.scale, np.float32)
        found[tuple(tensor.shape)] = bytes(bytearray(model.buffers[tensor.buffer].data)), scales
    return found


@pytest.mark.slow
@pytest.mark.parametrize("stored_as", [storage("fp16"), *INTEGER], ids=lambda s: f"{s.format.name}-{s.algorithm}")
def test_bytes_equal_ai_edge_quantizers(stored_as: Storage, float_model) -> None:
    if stored_as.algorithm == "recovery":
        path, weights = float_model(f"{stored_as.format.bits}", lambda values: lattice(stored_as, values))
    else:
        path, weights = float_model("plain", lambda values: values)
    expected = theirs(path, stored_as)
    for weight in weights:
        data, scales = expected[weight.shape]
        # In blocks of whole rows, as weights are streamed.
        parts = [store(weight[start : start + 24], stored_as) for start in range(0, len(weight), 24)]
        assert b"".join(part.data.tobytes() for part in parts) == data
        if scales is not None:
            np.testing.assert_array_equal(np.concatenate([np.ravel(part.scales) for part in parts]), scales)


@pytest.mark.parametrize("stored_as", INTEGER, ids=lambda s: f"{s.format.name}-{s.algorithm}")
def test_zeros_and_tiny_rows_are_stored(stored_as: Storage) -> None:
    values = lattice(stored_as, VALUES) if stored_as.algorithm == "recovery" else VALUES.copy()
    values[3], values[4] = 0, 1e-12
    stored = store(values, stored_as)
    assert stored.scales is not None
    assert np.isfinite(stored.scales).all()
    assert (stored.scales > 0).all()
    back = dequantize(stored, stored_as, values.shape)
    assert not back[3].any()
    assert np.abs(back[4]).max() < 1e-6
    if stored_as.algorithm == "recovery":
        np.testing.assert_allclose(back, values, atol=1e-6)


@pytest.mark.parametrize("stored_as", [s for s in INTEGER if s.algorithm != "recovery"], ids=lambda s: s.name)
def test_blocks_and_threads_change_nothing(stored_as: Storage) -> None:
    whole = store(VALUES, stored_as)
    with ThreadPoolExecutor(4) as threads:
        parts = list(threads.map(lambda row: store(VALUES[row : row + 1], stored_as), range(ROWS)))
    assert b"".join(part.data.tobytes() for part in parts) == whole.data.tobytes()
    np.testing.assert_array_equal(np.concatenate([part.scales for part in parts]), whole.scales)


def test_octav_costs_least_of_int4s_algorithms() -> None:
    """On heavy tails, as weights have them; README.md of the room has what it means for text."""
    errors = {
        algorithm: float(np.square(dequantize(store(VALUES, chosen), chosen, VALUES.shape) - VALUES).mean())
        for algorithm in ("octav", "min_max", "mse")
        for chosen in (storage("int4", algorithm),)
    }
    assert min(errors, key=errors.__getitem__) == FORMATS["int4"].algorithms[0] == "octav"


@pytest.mark.parametrize(
    ("name", "algorithm", "values", "said"),
    [
        ("fp16", None, np.full((2, 64), 1e5, np.float32), "does not fit float16"),
        ("int4", None, VALUES[:, :63], "do not fill whole bytes"),
        ("int4_block128", None, VALUES[:, :64], "do not fill whole blocks"),
        ("int4", "recovery", VALUES, "off the lattice"),
    ],
)
def test_what_cannot_be_stored_is_said(name: str, algorithm: str | None, values: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        store(values, storage(name, algorithm))
