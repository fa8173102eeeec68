"""The work of a training step, and the achieved fraction of the device's peak."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from cogvx_exp.diffusion.batch import Batch

PEAK_TFLOPS = {
    "H200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "A10G": 70,
    "A10": 125,
    "A40": 150,
    "L40S": 362,
    "L4": 121,
    "RTX A6000": 155,
    "RTX 6000 Ada": 364,
    "RTX 5090": 209,
    "RTX 4090": 165,
    "RTX 3090": 71,
}
"""Dense 16-bit matrix products with float32 accumulation, in TFLOP/s (NVIDIA's data sheets). The first match is
used."""


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

    FLOPs are those the step requires, without recomputation, as in the model FLOPs utilization of PaLM
    (arXiv:2204.02311, appendix B): matrix products of the blocks and attention, forward and backward, and the gradients
    of trained weights.

    Args:
        config: the transformer's configuration.
        trained: shapes of the trained weights by name.
    """

    def __init__(self, config: dict[str, Any], trained: Mapping[str, tuple[int, ...]]):
        self._width = config["num_attention_heads"] * config["attention_head_dim"]
        self._layers = config["num_layers"]
        self._patch, self._patch_t = config["patch_size"], config["patch_size_t"] or 1
        # The projections of the layer norms process one vector per clip, not one per token.
        matrices = [shape for name, shape in trained.items() if len(shape) == 2 and ".norm" not in name]
        self._trained = sum(math.prod(shape) for shape in matrices)

    def of(self, batch: Batch) -> Work:
        """The work of one batch, forward and backward."""
        clips, frames, _, height, width = batch.latents.shape
        video = (frames // self._patch_t) * (height // self._patch) * (width // self._patch)
        tokens = video + batch.prompt_embeds.shape[1]
        linear = 2 * tokens * 12 * self._width**2  # query, key, value, output; feed-forward of four times the width
        attention = 4 * tokens**2 * self._width
        # Backward pass: the gradient of a linear layer's input, and of both factors of attention's products.
        passes = self._layers * (2.0 * linear + 3.0 * attention)
        return Work(clips, clips * tokens, clips * (passes + 2.0 * tokens * self._trained))


def peak_flops(device: torch.device) -> float | None:
    """A device's peak FLOP/s in a 16-bit dtype, if known."""
    return _peak_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def _peak_of(name: str) -> float | None:
    """The peak by CUDA's device name."""
    known = (kind for kind in PEAK_TFLOPS if re.search(rf"\b{kind}\b(?! (Ti|D|Laptop))", name))
    kind = next(known, None)
    return PEAK_TFLOPS[kind] * 1e12 if kind else None
