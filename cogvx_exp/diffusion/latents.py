"""Latents from the VAE's moments."""

import torch


def sample_latents(moments: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """A sample of the VAE's latent distribution.

    Args:
        moments: means and log-variances, (..., 2C, F, H, W).
        noise: standard normal, (..., C, F, H, W).
    """
    mean, log_variance = moments.chunk(2, dim=-4)
    return mean + (0.5 * log_variance.clamp(-30, 20)).exp() * noise  # diffusers' clamp
