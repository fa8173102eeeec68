"""How much work a training step is, and what share of the device's peak it reaches."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from cogvx_exp.diffusion.batch import Batch
from cogvx_exp.estimate.time.cards import card_of
from cogvx_exp.estimate.time.flops import FlopCount, Shape


@dataclass(frozen=True)
class Work:
    """What was done in a forward and backward pass."""

    clips: int = 0
    tokens: int = 0
    """Of videos and captions."""
    flops: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.clips + other.clips, self.tokens + other.tokens, self.flops + other.flops)


class WorkMeter:
    """Counts the work of batches.

    The floating-point operations are those that the step needs, whatever is computed twice to save memory.

    Args:
        config: the transformer's.
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
    """The most that a device can do a second in a 16-bit type, if it is known."""
    card = card_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return card.peak_tflops * 1e12 if card and card.peak_tflops else None
