"""A forward and backward pass, shared by training and the memory prediction."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

import torch

from cogvx_exp.diffusion.batch import Batch
from cogvx_exp.diffusion.denoise import Loss
from cogvx_exp.profiling.ranges import Range, no_range


class Passes(Protocol):
    """Implemented by `strategies.single.Strategy`, and in the prediction by a class that tracks memory."""

    model: torch.nn.Module

    def autocast(self) -> AbstractContextManager[None]:
        """Mixed precision for a forward pass."""

    def backward(self, loss: torch.Tensor) -> None:
        """Accumulates the gradients of a loss."""


def forward_backward(
    passes: Passes,
    loss: Loss,
    batch: Batch,
    accumulation: int,
    around: Range = no_range,
    between: Callable[[torch.Tensor], None] | None = None,
) -> None:
    """Accumulates the gradients of one of a step's `accumulation` micro-batches.

    Args:
        passes: the model.
        loss: the objective.
        batch: the micro-batch.
        accumulation: micro-batches per step.
        around: names both passes for a profiler.
        between: called before the backward pass with the loss of each sample, float32, (B,).
    """
    with around("forward"):
        with passes.autocast():
            losses = loss(passes.model, batch)
        # The gradient of a step is the mean over its micro-batches, which all have the same size.
        mean = losses.mean() / accumulation
    if between:
        between(losses.detach())
    with around("backward"):
        passes.backward(mean)
