"""One forward and backward pass, as training and the memory prediction make it."""

from contextlib import AbstractContextManager
from typing import Protocol

import torch

from cogvx_exp.diffusion.batch import Batch
from cogvx_exp.diffusion.denoise import Loss


class Passes(Protocol):
    """What a pass is made with: `strategies.single.Strategy`, and in the prediction one that tracks memory."""

    model: torch.nn.Module

    def autocast(self) -> AbstractContextManager[None]:
        """Around a forward pass: mixed precision."""

    def backward(self, loss: torch.Tensor) -> None:
        """Adds the gradients of a loss."""


def forward_backward(passes: Passes, loss: Loss, batch: Batch, accumulation: int) -> torch.Tensor:
    """Adds the gradients of one of a step's `accumulation` micro-batches.

    Returns:
        The loss of each sample, float32, (B,).
    """
    with passes.autocast():
        losses = loss(passes.model, batch)
    passes.backward(losses.mean() / accumulation)
    return losses.detach()
