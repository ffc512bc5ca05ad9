"""A signature to a flatbuffer whose weights are inputs."""

from __future__ import annotations

from ....runtime.bundle.flatbuffer import pack, parse
from ..joining.join import join
from ..joining.kit import Kit
from ..joining.recording import record
from ..signatures import Signature
from .converter import register_lowerings, to_flatbuffer

WEIGHT_PREFIX = "weights_"
INPUT_PREFIX = "inputs_"


def trace(signature: Signature) -> bytes:
    """Flatbuffer of one signature whose weights are inputs; a few hundred kilobytes whatever the model's size.

    Each kind of part is traced once, and the graph joined from the parts.
    """
    register_lowerings()
    recording = record(signature)
    kit = Kit(recording)
    model = parse(to_flatbuffer(signature.name, kit, kit.samples()))
    return pack(join(model, recording, signature.name, given_names(signature)))


def given_names(signature: Signature) -> list[str]:
    """Names of the inputs of a traced graph: its weights, then what the signature takes."""
    weights = (f"{WEIGHT_PREFIX}{weight.name}" for weight in signature.weights)
    return [*weights, *(f"{INPUT_PREFIX}{name}" for name in signature.inputs)]
