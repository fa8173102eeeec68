"""A training batch, from the loader processes to the model.

Layout: B batch, F latent frames, C channels, H height and W width in latent pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Batch:
    """Training samples of one bucket."""

    latents: torch.Tensor
    """Clean latents, scaled: float32, (B, F, C, H, W)."""
    noise: torch.Tensor
    """Standard normal, shaped like the latents."""
    timesteps: torch.Tensor
    """Integers, (B,)."""
    prompt_embeds: torch.Tensor
    """Text embeddings, (B, tokens, width)."""
    samples: list[int]
    """Sample numbers within the run."""
    clips: list[str]
    """Names of the clips, for messages."""
    extras: dict[str, torch.Tensor] = field(default_factory=dict)
    """The task's random tensors for the samples (`Task.draw`), by name, each with a first dimension of B."""
    condition: torch.Tensor | None = None
    """Concatenated with the noisy latents along the channels; same shape."""

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        """The batch with a function applied to all tensors."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        changes: dict[str, Any] = {name: function(x) for name, x in values.items() if isinstance(x, torch.Tensor)}
        return replace(self, extras={name: function(x) for name, x in self.extras.items()}, **changes)

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device; copies from pinned memory are asynchronous."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """Called by DataLoader."""
        return self.map(lambda tensor: tensor.pin_memory())

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the tensors' bytes. torch would share them through /dev/shm, which is small in containers."""
        return _unpickled, tuple(_pickled(getattr(self, item.name)) for item in fields(self))


@dataclass(frozen=True)
class _Bytes:
    """The pickled form of a tensor."""

    data: np.ndarray
    dtype: torch.dtype
    shape: tuple[int, ...]


def _pickled(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _pickled(item) for name, item in value.items()}
    if not isinstance(value, torch.Tensor):
        return value
    # numpy has no bfloat16, so the raw bytes are used.
    return _Bytes(value.contiguous().flatten().view(torch.uint8).numpy(), value.dtype, tuple(value.shape))


def _unpickled(*values: Any) -> Batch:
    return Batch(*map(_from_bytes, values))


def _from_bytes(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _from_bytes(item) for name, item in value.items()}
    if not isinstance(value, _Bytes):
        return value
    return torch.from_numpy(value.data).view(value.dtype).reshape(value.shape)


def collate(samples: list[Batch]) -> Batch:
    """Joins samples of one bucket into a batch."""
    joined: dict[str, Any] = {}
    for item in fields(Batch):
        values = [getattr(sample, item.name) for sample in samples]
        if isinstance(values[0], torch.Tensor):
            joined[item.name] = torch.cat(values)
        elif isinstance(values[0], list):
            joined[item.name] = [entry for value in values for entry in value]
    joined["extras"] = {name: torch.cat([sample.extras[name] for sample in samples]) for name in samples[0].extras}
    return Batch(**joined)
