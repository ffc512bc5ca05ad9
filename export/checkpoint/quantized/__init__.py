"""Checkpoints that hold codes instead of values: what `quantization_config` says, and how their tensors are read."""
