"""Memory of the VAE and of the text encoder, each alone on the device."""

from functools import lru_cache
from typing import Literal

import torch

from cogvx_exp.config.schema import Memory
from cogvx_exp.config.schema.model import TextEncoderArchitecture, VaeArchitecture
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.data.encode import encode_videos
from cogvx_exp.estimate.fake_models import fake_tensors, fake_text_encoder, fake_vae, materialize


def vae_weights(architecture: VaeArchitecture, dtype: torch.dtype) -> int:
    """Bytes of the autoencoder's weights."""
    vae = fake_vae(architecture, dtype)
    return sum(weight.numel() for weight in vae.parameters()) * dtype.itemsize


def vae_peak(
    architecture: VaeArchitecture,
    memory: Memory,
    dtype: torch.dtype,
    shape: Bucket,
    batch_size: int,
    what: Literal["encode", "decode"],
) -> int:
    """Most bytes while the autoencoder encodes or decodes clips, its weights included."""
    tiles = (memory.vae_slicing, memory.vae_tiling)
    return _vae_peak(architecture.model_dump_json(), *tiles, dtype, shape, batch_size, what)


def text_encoder_peak(architecture: TextEncoderArchitecture, dtype: torch.dtype, tokens: tuple[int, int]) -> int:
    """Most bytes while (captions, length) tokens are encoded, the weights included."""
    return _text_encoder_peak(architecture.model_dump_json(), dtype, tokens)


@lru_cache(maxsize=64)
def _vae_peak(
    architecture: str, slicing: bool, tiling: bool, dtype: torch.dtype, shape: Bucket, batch_size: int, what: str
) -> int:
    parsed = VaeArchitecture.model_validate_json(architecture)
    vae = fake_vae(parsed, dtype, slicing=slicing, tiling=tiling)
    with fake_tensors("cuda") as tracker, torch.no_grad():
        materialize(vae, tracker, "VAE")
        if what == "encode":
            encode_videos(torch.empty(batch_size, 3, shape.num_frames, shape.height, shape.width), vae)
        else:
            frames = (shape.num_frames - 1) // parsed.temporal_compression_ratio + 1
            height, width = (side // parsed.spatial_compression_ratio for side in (shape.height, shape.width))
            vae.decode(torch.empty(batch_size, parsed.latent_channels, frames, height, width, dtype=dtype))
        return tracker.peak


@lru_cache(maxsize=16)
def _text_encoder_peak(architecture: str, dtype: torch.dtype, tokens: tuple[int, int]) -> int:
    encoder = fake_text_encoder(TextEncoderArchitecture.model_validate_json(architecture), dtype)
    with fake_tensors("cuda") as tracker, torch.no_grad():
        materialize(encoder, tracker, "text encoder")
        encoder(torch.zeros(tokens, dtype=torch.long))
        return tracker.peak
