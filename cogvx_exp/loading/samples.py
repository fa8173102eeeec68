"""Training samples: latents with their noise, timestep and caption, all drawn by keyed randomness.

Layout: B batch, F latent frames, C channels, H height and W width in latent pixels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from cogvx_exp.config.schema import Data, Task
from cogvx_exp.core.randomness import generator
from cogvx_exp.latents.dataset import EncodedClips
from cogvx_exp.loading.sampler import SampleIndex


@dataclass(frozen=True)
class LatentSpace:
    """What the samples must know of the model."""

    scaling_factor: float
    """Of the VAE."""
    patch_size_t: int | None
    """Latent frames of a patch: their number is padded to a multiple of it."""
    num_train_timesteps: int
    """Timesteps are drawn from 0 to this, exclusive."""


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
    """Numbers of the samples in the run."""
    clips: list[str]
    """Names of the clips, for messages."""
    image: torch.Tensor | None = None
    """i2v: noisy first frames, float32 in about [-1, 1], (B, 3, height, width) in pixels; or moments of
    clips that were encoded elsewhere, (B, 2C, 1, H, W)."""
    image_noise: torch.Tensor | None = None
    """i2v: standard normal, with which the image's latent is drawn, (B, C, 1, H, W)."""
    image_mask: torch.Tensor | None = None
    """i2v: whether the sample keeps its image, (B,)."""
    image_latents: torch.Tensor | None = None
    """i2v: what goes into the model beside the noisy latents, shaped like them."""

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        """The batch with a function applied to all tensors."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        changes: dict[str, Any] = {name: function(x) for name, x in values.items() if isinstance(x, torch.Tensor)}
        return replace(self, **changes)

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device; from pinned memory the copy does not block."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """Called by DataLoader."""
        return self.map(lambda tensor: tensor.pin_memory())

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the tensors' bytes, where torch would send a name in /dev/shm: in a container that is small."""
        return _unpickled, tuple(_pickled(getattr(self, item.name)) for item in fields(self))


@dataclass(frozen=True)
class _Bytes:
    """A tensor as it is pickled."""

    data: np.ndarray
    dtype: torch.dtype
    shape: tuple[int, ...]


def _pickled(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    # numpy has no bfloat16, so it is given bytes
    return _Bytes(value.contiguous().flatten().view(torch.uint8).numpy(), value.dtype, tuple(value.shape))


def _unpickled(*values: Any) -> Batch:
    return Batch(*map(_from_bytes, values))


def _from_bytes(value: Any) -> Any:
    if not isinstance(value, _Bytes):
        return value
    return torch.from_numpy(value.data).view(value.dtype).reshape(value.shape)


class TrainingSamples(Dataset[Batch]):
    """Maps a `SampleIndex` to a sample (a batch of one). Reads the cache; holds no tensors."""

    def __init__(self, clips: EncodedClips, space: LatentSpace, data: Data, task: Task, seed: int):
        self.clips = clips
        self.space = space
        self.caption_dropout = data.caption_dropout
        self.random_flip = data.random_flip
        self.task = task
        self.seed = seed

    def __getitem__(self, draw: SampleIndex) -> Batch:
        entries = self.clips.videos[draw.clip]
        entry = entries[self.flipped(draw) if len(entries) > 1 else 0]
        cache = self.clips.cache
        return self.sample(draw, cache.load(entry.moments), cache.load(entry.image) if entry.image else None)

    def flipped(self, draw: SampleIndex) -> bool:
        """Whether the clip of this draw is mirrored."""
        return self.random_flip > 0 and self._uniform(draw, "flip") < self.random_flip

    def crop_position(self, draw: SampleIndex) -> tuple[float, float]:
        """Where a random crop of this draw lies, from 0 (top, left) to 1 (bottom, right)."""
        return self._uniform(draw, "crop y"), self._uniform(draw, "crop x")

    def sample(self, draw: SampleIndex, moments: torch.Tensor, image: torch.Tensor | None) -> Batch:
        """The sample of a draw.

        Args:
            draw: keys all randomness.
            moments: of the clip, (2C, F, H, W).
            image: i2v: the first frame, as an `Entry` describes it.
        """
        latents = self._latents(draw, moments.float())
        timesteps = self.space.num_train_timesteps
        batch = Batch(
            latents=latents[None],
            noise=torch.randn(latents.shape, generator=self._generator(draw, "noise"))[None],
            timesteps=torch.randint(timesteps, (1,), generator=self._generator(draw, "timestep")),
            prompt_embeds=self.clips.cache.load(self._caption(draw))[None],
            samples=[draw.sample],
            clips=[self.clips.names[draw.clip]],
        )
        return batch if image is None else self._with_image(draw, batch, image)

    def _with_image(self, draw: SampleIndex, batch: Batch, image: torch.Tensor) -> Batch:
        channels, height, width = batch.latents.shape[2:]
        if image.dtype == torch.uint8:
            image = self._add_image_noise(draw, image.float() / 127.5 - 1)
        dropout = self.task.image_dropout or 0
        return replace(
            batch,
            image=image.float()[None],
            image_noise=torch.randn((1, channels, 1, height, width), generator=self._generator(draw, "image latent")),
            image_mask=torch.tensor([self._uniform(draw, "image dropout") >= dropout]),
        )

    def _add_image_noise(self, draw: SampleIndex, pixels: torch.Tensor) -> torch.Tensor:
        """Adds noise of a strength that is drawn anew for every sample: exp(N(mean, std))."""
        assert self.task.image_noise_mean is not None
        assert self.task.image_noise_std is not None
        normal = torch.randn((), generator=self._generator(draw, "image noise strength")).item()
        sigma = math.exp(self.task.image_noise_mean + self.task.image_noise_std * normal)
        return pixels + sigma * torch.randn(pixels.shape, generator=self._generator(draw, "image noise"))

    def _latents(self, draw: SampleIndex, moments: torch.Tensor) -> torch.Tensor:
        """Scaled latents, (F, C, H, W), drawn from the VAE's moments.

        For CogVideoX 1.5 an odd number of frames is padded in front with copies of the first, as the
        checkpoints were trained.
        """
        noise = torch.randn((moments.shape[0] // 2, *moments.shape[1:]), generator=self._generator(draw, "latents"))
        latents_FCHW = draw_latents(moments, noise).transpose(0, 1) * self.space.scaling_factor
        missing = -len(latents_FCHW) % (self.space.patch_size_t or 1)
        return torch.cat([latents_FCHW[:1]] * missing + [latents_FCHW]).contiguous()

    def _caption(self, draw: SampleIndex) -> str:
        if self._uniform(draw, "caption") < self.caption_dropout:
            return self.clips.no_caption
        captions = self.clips.captions[draw.clip]
        return captions[int(self._uniform(draw, "which caption") * len(captions))]

    def _uniform(self, draw: SampleIndex, purpose: str) -> float:
        return torch.rand((), generator=self._generator(draw, purpose)).item()

    def _generator(self, draw: SampleIndex, purpose: str) -> torch.Generator:
        return generator(self.seed, draw.sample, purpose)


def draw_latents(moments: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """A sample of the VAE's distribution: moments are (..., 2C, F, H, W), noise (..., C, F, H, W)."""
    mean, log_variance = moments.chunk(2, dim=-4)
    return mean + (0.5 * log_variance.clamp(-30, 20)).exp() * noise  # the clamp of diffusers' distribution


def collate(samples: list[Batch]) -> Batch:
    """Joins samples of one bucket."""
    joined: dict[str, Any] = {}
    for item in fields(Batch):
        values = [getattr(sample, item.name) for sample in samples]
        if isinstance(values[0], torch.Tensor):
            joined[item.name] = torch.cat(values)
        elif isinstance(values[0], list):
            joined[item.name] = [entry for value in values for entry in value]
    return Batch(**joined)
