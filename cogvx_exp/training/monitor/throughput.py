"""The work of a training step, and the achieved fraction of the device's peak."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from cogvx_exp.diffusion.batch import Batch
from cogvx_exp.estimate.time.cards import card_of
from cogvx_exp.estimate.time.flops import FlopCount, Shape


@dataclass(frozen=True)
class Work:
    """Work of a forward and backward pass."""

    clips: int = 0
    tokens: int = 0
    """Video and caption tokens."""
    flops: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.clips + other.clips, self.tokens + other.tokens, self.flops + other.flops)


class WorkMeter:
    """Counts the work of batches.

    FLOPs are those the step requires, without recomputation.

    Args:
        config: the transformer's configuration.
        trained: shapes of the trained weights by name.
    """

    def __init__(self, config: Mapping[str, Any], trained: Mapping[str, tuple[int, ...]]):
        self._count = FlopCount(config, trained)

    def of(self, batch: Batch) -> Work:
        """The work of one batch, forward and backward."""
        clips, frames, _, height, width = batch.latents.shape
        shape = Shape(clips, frames, height, width, batch.prompt_embeds.shape[1])
        return Work(clips, clips * self._count.tokens(shape), self._count.training(shape).model)


def peak_flops(device: torch.device) -> float | None:
    """A device's peak FLOP/s in a 16-bit dtype, if known."""
    card = card_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    # No figure rather than a guess: an unknown card's utilization would be arbitrary.
    return card.peak_tflops * 1e12 if card and card.peak_tflops else None
