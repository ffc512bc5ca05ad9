"""Optimisers and learning-rate schedule of the small pair's training."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

# Quintic Newton-Schulz coefficients of Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon).
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Muon in float32. torch.optim.Muon works in bfloat16, which a CPU without AMX runs ten times slower."""

    def __init__(self, params: list[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.02):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                average = self.state[parameter].setdefault("average", torch.zeros_like(parameter))
                average.lerp_(parameter.grad, 1.0 - group["momentum"])
                update = orthogonalised(parameter.grad.lerp(average, group["momentum"]))
                # 0.2 * sqrt(longest side) gives the update the RMS of Adam's (Liu et al. 2025, arXiv:2502.16982).
                parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * 0.2 * max(parameter.shape) ** 0.5)


def orthogonalised(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Nearest semi-orthogonal matrix, roughly: five quintic Newton-Schulz steps."""
    a, b, c = _NEWTON_SCHULZ
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to `peak`, then linear decay to a twentieth of it over `steps`."""

    peak: float
    steps: int
    warm_up: int = 40
    report_every: int = 50

    def rate(self, step: int) -> float:
        """Learning rate of 0-based `step`."""
        if step < self.warm_up:
            return self.peak * (step + 1) / self.warm_up
        return self.peak * (1.0 - 0.95 * (step - self.warm_up) / max(1, self.steps - self.warm_up))


def optimise(
    model: nn.Module, loss_of_step: Callable[[int], torch.Tensor], schedule: Schedule, say: Callable[[str], None]
) -> None:
    """Run `schedule.steps` steps on the loss that `loss_of_step` returns for each.

    Muon takes the matrices inside the layers; Adam takes tables, norms and scalars.
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    learned = [(name, tensor) for name, tensor in tensors if tensor.requires_grad]
    matrices = [tensor for name, tensor in learned if tensor.ndim == 2 and ".layers." in name]
    others = [tensor for name, tensor in learned if not (tensor.ndim == 2 and ".layers." in name)]
    optimizers = [Muon(matrices, schedule.peak), torch.optim.AdamW(others, schedule.peak, (0.9, 0.95), weight_decay=0)]
    started, total = time.monotonic(), 0.0
    for step in range(schedule.steps):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = schedule.rate(step)
        loss = loss_of_step(step)
        loss.backward()
        nn.utils.clip_grad_norm_([tensor for _, tensor in learned], 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        total += loss.item()
        if (step + 1) % schedule.report_every == 0:
            mean, total = total / schedule.report_every, 0.0
            say(f"step {step + 1}/{schedule.steps}: loss {mean:.3f}, {time.monotonic() - started:.0f} s")
