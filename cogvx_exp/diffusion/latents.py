"""Latents from the VAE's moments.

Layout: F latent frames, C channels, H height and W width in latent pixels.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LatentSpace:
    """Properties of the model that samples depend on."""

    scaling_factor: float
    """Scaling factor of the VAE."""
    patch_size_t: int | None
    """Latent frames per patch: the number of frames is padded to a multiple of it."""
    num_train_timesteps: int
    """Exclusive upper limit of timesteps."""


def sample_latents(moments: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """A sample of the VAE's latent distribution.

    Args:
        moments: means and log-variances, (..., 2C, F, H, W).
        noise: standard normal, (..., C, F, H, W).
    """
    mean, log_variance = moments.chunk(2, dim=-4)
    return mean + (0.5 * log_variance.clamp(-30, 20)).exp() * noise  # diffusers' clamp


def padded(latents_FCHW: torch.Tensor, patch_size_t: int | None) -> torch.Tensor:
    """Latents with a number of frames that fits the patches.

    For CogVideoX 1.5, an odd number of frames is padded at the front with copies of the first, as in the checkpoints'
    training.
    """
    missing = -len(latents_FCHW) % (patch_size_t or 1)
    return torch.cat([latents_FCHW[:1]] * missing + [latents_FCHW]).contiguous()
