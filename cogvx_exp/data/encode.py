"""Encodes clips to VAE moments and captions to T5 embeddings."""

import torch
from diffusers import AutoencoderKLCogVideoX
from transformers import T5EncoderModel, T5Tokenizer

from cogvx_exp.config.schema import Data
from cogvx_exp.data.buckets import frame_indices
from cogvx_exp.data.manifest import Clip
from cogvx_exp.data.transform import to_pixels
from cogvx_exp.data.video import read_frames
from cogvx_exp.errors import UserError


def clip_pixels(clip: Clip, data: Data) -> torch.Tensor:
    """Decodes a clip and brings it to its bucket: float32 in [-1, 1], (3, frames, height, width).

    Raises:
        UserError: the video cannot be decoded.
    """
    try:
        frames = read_frames(clip.row.path, frame_indices(clip.info, data, clip.bucket.num_frames))
    except UserError as error:
        raise UserError(f"row {clip.row.number}, {clip.row.path}: {error}") from None
    return to_pixels(frames, clip.bucket, data.reshape)


@torch.no_grad()
def encode_video(pixels_CFHW: torch.Tensor, vae: AutoencoderKLCogVideoX) -> torch.Tensor:
    """The moments of a clip's latent distribution: mean and log-variance, (2 channels, frames, height, width).

    The moments are kept, not one sample, so that every training step draws a fresh latent.
    """
    pixels_BCFHW = pixels_CFHW[None].to(vae.device, vae.dtype)
    return vae.encode(pixels_BCFHW).latent_dist.parameters[0]


@torch.no_grad()
def encode_captions(
    captions: list[str], tokenizer: T5Tokenizer, encoder: T5EncoderModel, max_length: int
) -> torch.Tensor:
    """Embeddings of captions, padded or cut to `max_length` tokens: (captions, max_length, width)."""
    tokens = tokenizer(captions, padding="max_length", max_length=max_length, truncation=True, return_tensors="pt")
    # The CogVideoX pipelines give T5 no attention mask, so training must not either.
    return encoder(tokens.input_ids.to(encoder.device))[0]
