"""Training samples: latents with noise, timestep and caption, all drawn with keyed randomness.

Layout: B batch, F latent frames, C channels, H height and W width in latent pixels.
"""

import torch
from torch.utils.data import Dataset

from cogvx_exp.config.schema import Data
from cogvx_exp.core.randomness import SampleRandomness
from cogvx_exp.diffusion.batch import Batch
from cogvx_exp.diffusion.latents import LatentSpace, padded, sample_latents
from cogvx_exp.diffusion.objective import TimestepSampler, uniform
from cogvx_exp.latents.dataset import EncodedClips
from cogvx_exp.loading.caption_dropout import draw_caption
from cogvx_exp.loading.sampler import SampleIndex
from cogvx_exp.tasks.base import Task


class TrainingSamples(Dataset[Batch]):
    """Maps a `SampleIndex` to a sample (a batch of one). Reads the cache; holds no tensors."""

    def __init__(
        self,
        clips: EncodedClips,
        space: LatentSpace,
        data: Data,
        task: Task,
        seed: int,
        timesteps: TimestepSampler = uniform,
    ):
        # Keys and no tensors: each loader process gets a copy of this object.
        self.clips = clips
        self.timesteps = timesteps
        self.space = space
        self.caption_dropout = data.caption_dropout
        self.random_flip = data.random_flip
        self.task = task
        self.seed = seed

    def __getitem__(self, draw: SampleIndex) -> Batch:
        entries = self.clips.videos[draw.clip]
        entry = entries[self.flipped(draw) if len(entries) > 1 else 0]
        cache = self.clips.cache
        needed = self.needed(draw)
        cached = {name: cache.load(key) for name, key in entry.extras if name in needed}
        return self.sample(draw, cache.load(entry.moments), cached)

    def needed(self, draw: SampleIndex) -> list[str]:
        """Names of the cached tensors that this draw uses."""
        return self.task.needed(self._random(draw))

    def flipped(self, draw: SampleIndex) -> bool:
        """Whether this draw's clip is flipped horizontally."""
        return self.random_flip > 0 and self._random(draw).uniform("flip") < self.random_flip

    def crop_position(self, draw: SampleIndex) -> tuple[float, float]:
        """Position of this draw's random crop, from 0 (top, left) to 1 (bottom, right)."""
        random = self._random(draw)
        return random.uniform("crop y"), random.uniform("crop x")

    def sample(self, draw: SampleIndex, moments: torch.Tensor, cached: dict[str, torch.Tensor]) -> Batch:
        """The sample for a draw.

        Args:
            draw: its sample number keys all randomness.
            moments: the clip's moments, (2C, F, H, W).
            cached: the clip's other tensors, as `Task.cached` describes them.
        """
        random = self._random(draw)
        latents = self._latents(random, moments.float())
        extras = self.task.draw(cached, latents, random, self.space)
        caption = draw_caption(self.clips, draw.clip, random, self.caption_dropout)
        return Batch(
            latents=latents[None],
            noise=random.normal(latents.shape, "noise")[None],
            timesteps=self.timesteps(self.space.num_train_timesteps, random.generator("timestep")),
            prompt_embeds=self.clips.cache.load(caption)[None],
            samples=[draw.sample],
            clips=[self.clips.names[draw.clip]],
            extras={name: value[None] for name, value in extras.items()},
        )

    def _latents(self, random: SampleRandomness, moments: torch.Tensor) -> torch.Tensor:
        """Scaled latents, (F, C, H, W), drawn from the VAE's moments."""
        noise = random.normal((moments.shape[0] // 2, *moments.shape[1:]), "latents")
        # Frames first, as the transformer reads them; the VAE has channels first.
        latents_FCHW = sample_latents(moments, noise).transpose(0, 1) * self.space.scaling_factor
        return padded(latents_FCHW, self.space.patch_size_t)

    def _random(self, draw: SampleIndex) -> SampleRandomness:
        return SampleRandomness(self.seed, draw.sample)
