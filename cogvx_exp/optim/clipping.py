"""Clips gradients, wherever an optimizer holds them."""

import math
from typing import Protocol, runtime_checkable

import torch
from accelerate import Accelerator


@runtime_checkable
class HoldsGradients(Protocol):
    """An optimizer that holds its gradients elsewhere than in `parameter.grad`."""

    def clip_gradients(self, max_norm: float) -> torch.Tensor:
        """Clips the gradients to `max_norm` and returns their global norm before clipping."""


def clip_gradients(optimizer: torch.optim.Optimizer, accelerator: Accelerator, max_norm: float | None) -> torch.Tensor:
    """Clips the gradients to `max_norm` (None: never) and returns their global norm before clipping."""
    holder = getattr(optimizer, "optimizer", optimizer)  # unwrap accelerate's wrapper
    if isinstance(holder, HoldsGradients):
        return holder.clip_gradients(max_norm or math.inf)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    # accelerate unscales float16 gradients first; torch's own function would clip them by their scaled norm.
    norm: torch.Tensor = accelerator.clip_grad_norm_(parameters, max_norm or math.inf)
    return norm
