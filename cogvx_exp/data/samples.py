"""Training samples: latents with their noise, timestep and caption, all drawn by keyed randomness.

Layout: B batch, F latent frames, C channels, H height and W width in latent pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch.utils.data import DataLoader, Dataset

from cogvx_exp.config.schema import Data
from cogvx_exp.data.encoded import EncodedClips
from cogvx_exp.data.sampler import BatchStream, Draw
from cogvx_exp.randomness import generator


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

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device; from pinned memory the copy does not block."""
        tensors = ("latents", "noise", "timesteps", "prompt_embeds")
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in tensors}
        return replace(self, **moved)

    def pin_memory(self) -> "Batch":
        """Called by DataLoader."""
        tensors = ("latents", "noise", "timesteps", "prompt_embeds")
        return replace(self, **{name: getattr(self, name).pin_memory() for name in tensors})


class TrainingSamples(Dataset[Batch]):
    """Maps a `Draw` to a sample (a batch of one). Reads the cache; holds no tensors."""

    def __init__(self, clips: EncodedClips, space: LatentSpace, data: Data, seed: int):
        self.clips = clips
        self.space = space
        self.caption_dropout = data.caption_dropout
        self.random_flip = data.random_flip
        self.seed = seed

    def __getitem__(self, draw: Draw) -> Batch:
        keys = self.clips.videos[draw.clip]
        return self.sample(draw, self.clips.cache.load(keys[1] if self.flipped(draw) else keys[0]))

    def flipped(self, draw: Draw) -> bool:
        """Whether the clip of this draw is mirrored."""
        return self.random_flip > 0 and self._uniform(draw, "flip") < self.random_flip

    def crop_position(self, draw: Draw) -> tuple[float, float]:
        """Where a random crop of this draw lies, from 0 (top, left) to 1 (bottom, right)."""
        return self._uniform(draw, "crop y"), self._uniform(draw, "crop x")

    def sample(self, draw: Draw, moments: torch.Tensor) -> Batch:
        """The sample of a draw, given the moments of its clip, (2C, F, H, W)."""
        latents = draw_latents(moments.float(), self.space, self._generator(draw, "latents"))
        timesteps = self.space.num_train_timesteps
        return Batch(
            latents=latents[None],
            noise=torch.randn(latents.shape, generator=self._generator(draw, "noise"))[None],
            timesteps=torch.randint(timesteps, (1,), generator=self._generator(draw, "timestep")),
            prompt_embeds=self.clips.cache.load(self._caption(draw))[None],
            samples=[draw.sample],
            clips=[self.clips.names[draw.clip]],
        )

    def _caption(self, draw: Draw) -> str:
        if self._uniform(draw, "caption") < self.caption_dropout:
            return self.clips.no_caption
        captions = self.clips.captions[draw.clip]
        return captions[int(self._uniform(draw, "which caption") * len(captions))]

    def _uniform(self, draw: Draw, purpose: str) -> float:
        return torch.rand((), generator=self._generator(draw, purpose)).item()

    def _generator(self, draw: Draw, purpose: str) -> torch.Generator:
        return generator(self.seed, draw.sample, purpose)


def draw_latents(moments: torch.Tensor, space: LatentSpace, generator: torch.Generator) -> torch.Tensor:
    """Draws scaled latents, (F, C, H, W), from the VAE's moments, (2C, F, H, W).

    For CogVideoX 1.5 an odd number of frames is padded in front with copies of the first, as the
    checkpoints were trained.
    """
    mean, log_variance = moments.chunk(2)
    std = (0.5 * log_variance.clamp(-30, 20)).exp()  # the clamp of diffusers' DiagonalGaussianDistribution
    latents = mean + std * torch.randn(mean.shape, generator=generator)
    latents_FCHW = latents.transpose(0, 1) * space.scaling_factor
    missing = -len(latents_FCHW) % (space.patch_size_t or 1)
    return torch.cat([latents_FCHW[:1]] * missing + [latents_FCHW]).contiguous()


def collate(samples: list[Batch]) -> Batch:
    """Joins samples of one bucket."""
    return Batch(
        latents=torch.cat([sample.latents for sample in samples]),
        noise=torch.cat([sample.noise for sample in samples]),
        timesteps=torch.cat([sample.timesteps for sample in samples]),
        prompt_embeds=torch.cat([sample.prompt_embeds for sample in samples]),
        samples=[number for sample in samples for number in sample.samples],
        clips=[name for sample in samples for name in sample.clips],
    )


def cached_batches(samples: TrainingSamples, stream: BatchStream, data: Data, device: torch.device) -> Iterator[Batch]:
    """An endless iterator of batches on `device`, loaded ahead by `data.workers` processes."""
    loader = DataLoader(
        samples,
        batch_sampler=stream,
        collate_fn=collate,
        num_workers=data.workers,
        pin_memory=data.pin_memory and device.type == "cuda",
        persistent_workers=data.workers > 0,
    )
    for batch in loader:
        yield batch.to(device)
