"""Encodes pixels to VAE moments and captions to T5 embeddings."""

import math
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX
from transformers import T5EncoderModel, T5Tokenizer

from cogvx_exp.data.buckets import Bucket


def to_pixels(clips: list[np.ndarray], device: torch.device, pin_memory: bool = True) -> torch.Tensor:
    """Frames of clips of one shape (uint8, (F, H, W, 3)) as VAE input: float32 in [-1, 1], (B, 3, F, H, W).

    They are copied to the device as bytes, a quarter of the size of the float32 values.

    Args:
        clips: the frames.
        device: target device.
        pin_memory: copy to a GPU from pinned memory, so the host does not wait.
    """
    shape, pinned = (len(clips), *clips[0].shape), pin_memory and device.type == "cuda"
    frames = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
    # Directly into pinned memory: pinning an existing array would copy it once more.
    np.stack(clips, out=frames.numpy())
    return frames.to(device, non_blocking=pinned).permute(0, 4, 1, 2, 3).float().div_(127.5).sub_(1)


@torch.inference_mode()
def encode_videos(pixels_BCFHW: torch.Tensor, vae: AutoencoderKLCogVideoX) -> torch.Tensor:
    """Moments of the latent distributions: means and log-variances, (B, 2 channels, frames, height, width).

    Moments are stored instead of a sample, so that every training step draws a fresh latent.
    """
    moments: torch.Tensor = vae.encode(pixels_BCFHW.to(vae.device, vae.dtype)).latent_dist.parameters
    return moments


def moments_shape(config: dict[str, Any], bucket: Bucket) -> tuple[int, ...]:
    """Shape of the moments of a clip, (2 channels, frames, height, width), from the VAE's config.json."""
    space = 2 ** (len(config["block_out_channels"]) - 1)
    frames = math.ceil(bucket.num_frames / config["temporal_compression_ratio"])
    return 2 * config["latent_channels"], frames, bucket.height // space, bucket.width // space


@torch.inference_mode()
def encode_captions(
    captions: list[str], tokenizer: T5Tokenizer, encoder: T5EncoderModel, max_length: int
) -> torch.Tensor:
    """Embeddings of captions, padded or truncated to `max_length` tokens: (captions, max_length, width)."""
    tokens = tokenizer(captions, padding="max_length", max_length=max_length, truncation=True, return_tensors="pt")
    # The CogVideoX pipelines pass no attention mask to T5, so training must not either.
    embeds: torch.Tensor = encoder(tokens.input_ids.to(encoder.device))[0]
    return embeds


def token_counts(captions: list[str], tokenizer: T5Tokenizer) -> list[int]:
    """Token count of each caption, before truncation."""
    return [len(tokens) for tokens in tokenizer(captions, truncation=False).input_ids]
