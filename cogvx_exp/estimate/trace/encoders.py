"""Memory of the VAE and the text encoder, alone on the device, or of the VAE in the training loop."""

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal

import torch
from diffusers import AutoencoderKLCogVideoX

from cogvx_exp.config.schema import Memory, TrainJob
from cogvx_exp.config.schema.model import TextEncoderArchitecture, VaeArchitecture
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.estimate.trace.fake_models import fake_tensors, fake_text_encoder, fake_vae, materialize
from cogvx_exp.estimate.trace.memory_tracker import MemoryTracker
from cogvx_exp.estimate.trace.repeats import Repeats
from cogvx_exp.latents.encode import encode_videos
from cogvx_exp.tasks.base import build_task


def vae_weights(architecture: VaeArchitecture, dtype: torch.dtype) -> int:
    """Bytes of the autoencoder's weights."""
    vae = fake_vae(architecture, dtype)
    return sum(weight.numel() for weight in vae.parameters()) * dtype.itemsize


@dataclass(frozen=True)
class VaePass:
    """What the autoencoder takes to encode or decode clips."""

    peak: int
    """Most bytes, its weights included."""
    flops: float
    """Operations of its convolutions."""


def vae_pass(
    architecture: VaeArchitecture,
    memory: Memory,
    dtype: torch.dtype,
    shape: Bucket,
    batch_size: int,
    what: Literal["encode", "decode"],
) -> VaePass:
    """Encodes or decodes clips with fake tensors."""
    tiles = (memory.vae_slicing, memory.vae_tiling)
    # As JSON, because the cache needs hashable arguments: looking for settings that fit tries many jobs with the same
    # VAE.
    return _vae_pass(architecture.model_dump_json(), *tiles, dtype, shape, batch_size, what)


def text_encoder_peak(architecture: TextEncoderArchitecture, dtype: torch.dtype, tokens: tuple[int, int]) -> int:
    """Peak bytes while (captions, length) tokens are encoded, including the weights."""
    return _text_encoder_peak(architecture.model_dump_json(), dtype, tokens)


class EncodersInTheLoop:
    """The VAEs that encode during training: clips (data.encode=online), and images for image-to-video.

    A run loads them with its first batch (`cogvx_exp.loading.online`, `cogvx_exp.loading.condition`).
    """

    def __init__(self, job: TrainJob, dtype: torch.dtype, tracker: MemoryTracker):
        load = partial(fake_vae, job.model.vae, dtype, slicing=job.memory.vae_slicing, tiling=job.memory.vae_tiling)
        self._clips = load() if job.data.encode == "online" else None
        self._frames = build_task(job.task).encoded_frames
        self._condition = load() if self._frames else None
        if self._condition:
            self._condition.decoder = None
        self._tracker = tracker
        self._loaded = False

    def encode(self, shape: Bucket, batch_size: int) -> None:
        """Encodes a batch's clips and images."""
        # With the first batch, as in a run, and so after the weights and before the first activations.
        for vae in () if self._loaded else filter(None, (self._clips, self._condition)):
            _load(vae, self._tracker)
        self._loaded = True
        for vae, frames in ((self._clips, shape.num_frames), (self._condition, self._frames)):
            if vae:
                encode_videos(torch.empty(batch_size, 3, frames, shape.height, shape.width), vae)


def _load(vae: AutoencoderKLCogVideoX, tracker: MemoryTracker) -> None:
    """Allocates an autoencoder. Most of its calls, for tiles and groups of frames, repeat an earlier one."""
    materialize(vae, tracker, "VAE")
    for part in filter(None, (vae.encoder, vae.decoder)):
        Repeats(part, tracker)


@lru_cache(maxsize=64)
def _vae_pass(
    architecture: str, slicing: bool, tiling: bool, dtype: torch.dtype, shape: Bucket, batch_size: int, what: str
) -> VaePass:
    parsed = VaeArchitecture.model_validate_json(architecture)
    vae = fake_vae(parsed, dtype, slicing=slicing, tiling=tiling)
    with fake_tensors() as tracker, torch.no_grad():
        _load(vae, tracker)
        if what == "encode":
            encode_videos(torch.empty(batch_size, 3, shape.num_frames, shape.height, shape.width), vae)
        else:
            frames = (shape.num_frames - 1) // parsed.temporal_compression_ratio + 1
            height, width = (side // parsed.spatial_compression_ratio for side in (shape.height, shape.width))
            vae.decode(torch.empty(batch_size, parsed.latent_channels, frames, height, width, dtype=dtype))
        return VaePass(tracker.peak, tracker.convolved)


@lru_cache(maxsize=16)
def _text_encoder_peak(architecture: str, dtype: torch.dtype, tokens: tuple[int, int]) -> int:
    encoder = fake_text_encoder(TextEncoderArchitecture.model_validate_json(architecture), dtype)
    with fake_tensors() as tracker, torch.no_grad():
        materialize(encoder, tracker, "text encoder")
        encoder(torch.zeros(tokens, dtype=torch.long))
        return tracker.peak
