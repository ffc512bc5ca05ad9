"""Runs a folder of exported .tflite models signature by signature, filling masks and parameters as LiteRT-LM does."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

Arrays = dict[str, np.ndarray]
# What LiteRT-LM writes into masked columns of a float mask.
_MASKED = np.float32(-0.7 * np.finfo(np.float32).max)


@dataclass
class GraphRunner:
    """The models of one export and their caches; `caches` holds every cache by tensor name."""

    folder: Path
    caches: Arrays = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = ("prefill_decode", "embedder", "per_layer_embedder", "mtp_drafter")
        self._models = {name: Interpreter(str(self.folder / f"{name}.tflite"), num_threads=2) for name in names}
        self.signatures = {
            signature: model.get_signature_runner(signature)
            for model in self._models.values()
            for signature in model.get_signature_list()
        }
        self.reset()

    def reset(self) -> None:
        """Empty caches."""
        details = self.signatures["decode"].get_input_details()
        self.caches = {
            name: np.zeros(detail["shape"], dtype=detail["dtype"])
            for name, detail in details.items()
            if name.startswith("kv_cache_")
        }

    @property
    def length(self) -> int:
        """Slots of every cache."""
        return self.signatures["decode"].get_input_details()["mask"]["shape"][-1]

    def embed(self, token: int) -> tuple[np.ndarray, np.ndarray]:
        """Embedding `[1, 1, D]` and per-layer embeddings `[1, 1, layers, ple_dim]` of one token."""
        ids = np.array([[token]], dtype=np.int32)
        return (
            self.signatures["embedder"](token_ids=ids)["embeddings"],
            self.signatures["per_layer_embedder"](token_ids=ids)["per_layer_embeddings"],
        )

    def _step(self, signature: str, positions: np.ndarray, first: int, end: int) -> Arrays:
        """Positions, causal mask up to each query and parameters of a step that fills slots `first`..`end - 1`."""
        shape = self.signatures[signature].get_input_details()["mask"]["shape"]
        mask = np.full(shape, _MASKED, dtype=np.float32)
        for row, position in enumerate(positions[: end - first]):
            mask[0, 0, row, : position + 1] = 0
        param = np.array([first, end, end, 0, 0, 0, 0], dtype=np.int32).reshape(1, 1, 1, 7)
        return {"input_pos": positions.astype(np.int32), "mask": mask, "param_tensor": param}

    def target(self, signature: str, tokens: list[int], first: int) -> Arrays:
        """Run `tokens` from slot `first` on; shorter than the signature, they are padded as in a prefill."""
        runner = self.signatures[signature]
        size = runner.get_input_details()["input_pos"]["shape"][0]
        positions = np.zeros(size, dtype=np.int64)
        positions[: len(tokens)] = np.arange(first, first + len(tokens))
        looked_up = [self.embed(token) for token in [*tokens, *[0] * (size - len(tokens))]]
        outputs = runner(
            embeddings=np.concatenate([found[0] for found in looked_up], axis=1),
            per_layer_embeddings=np.concatenate([found[1] for found in looked_up], axis=1),
            **self._step(signature, positions, first, first + len(tokens)),
            **self.caches,
        )
        self.caches = {name: outputs[name] for name in self.caches}
        return outputs

    def prefill(self, tokens: list[int]) -> None:
        """All of `tokens` from slot 0 on, greedily by the longest prefill that they fill, the rest by the shortest."""
        lengths = sorted(int(name.removeprefix("prefill_")) for name in self.signatures if name.startswith("prefill_"))
        done = 0
        while done < len(tokens):
            rest = len(tokens) - done
            length = max((size for size in lengths if size <= rest), default=lengths[0])
            self.target(f"prefill_{length}", tokens[done : done + length], done)
            done += length

    def draft(self, newest: int, activations: np.ndarray, slot: int, count: int) -> list[Arrays]:
        """`count` draft steps after token `newest`, which will take `slot`; `activations` is `[D]`."""
        read = [name for name in self.signatures["mtp_drafter"].get_input_details() if name.startswith("kv_cache_")]
        token, state, steps = newest, activations.reshape(1, 1, -1), []
        for _ in range(count):
            outputs = self.signatures["mtp_drafter"](
                activations=np.concatenate([self.embed(token)[0], state], axis=-1),
                **self._step("mtp_drafter", np.array([slot - 1]), slot - 1, slot),
                **{name: self.caches[name] for name in read},
            )
            token, state = int(outputs["logits"].argmax()), outputs["projected_activations"]
            steps.append(outputs)
        return steps
