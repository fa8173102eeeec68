"""`task.condition=first`: the first frame's latent, and zeros in the other frames.

Noise is added to the frame's pixels before the VAE, so it is encoded in the training loop: a cached latent would have
the same noise in every step. Encoding one frame is cheap, and the VAE's decoder is not kept in memory.
"""

import math
from typing import Any

import numpy as np
import torch

from cogvx_exp.config.schema import Task as TaskSettings
from cogvx_exp.core.randomness import SampleRandomness
from cogvx_exp.data.factory_latents import LatentFiles
from cogvx_exp.diffusion.latents import LatentSpace, sample_latents
from cogvx_exp.tasks.base import Cached, Tensors
from cogvx_exp.tasks.conditions import Condition


def first_frame(frames: np.ndarray) -> torch.Tensor:
    """Pixels of the first frame, uint8, (3, height, width)."""
    return torch.from_numpy(frames[0].copy()).permute(2, 0, 1)


def image_scale(vae_config: Any) -> float:
    """Factor of the image latent, the same in training and sampling.

    For CogVideoX 1.5 the diffusers pipeline divides by the scaling factor (invert_scale_latents), because these
    checkpoints were trained that way.
    """
    factor = float(vae_config["scaling_factor"])
    return 1 / factor if vae_config["invert_scale_latents"] else factor


class FirstFrame(Condition):
    """The condition of image-to-video."""

    encoded_frames = 1
    given = "image"
    label = "image-to-video"
    pipeline = "CogVideoXImageToVideoPipeline"

    def cached(self, settings: TaskSettings) -> dict[str, Cached]:
        """Pixels of the frame, or its moments, (2C, 1, H, W), if it was encoded elsewhere."""
        return {
            "image": Cached(
                part="first frame",
                make=first_frame,
                shape=lambda bucket: (3, bucket.height, bucket.width),
                imported=LatentFiles.required_image,
            )
        }

    def draw(
        self,
        cached: Tensors,
        latents: torch.Tensor,
        random: SampleRandomness,
        settings: TaskSettings,
        space: LatentSpace,
    ) -> dict[str, torch.Tensor]:
        """The noisy image (pixels, or moments), the noise for sampling its latent, (C, 1, H, W), and whether the sample
        keeps its image.
        """
        image = cached["image"]
        if image.dtype == torch.uint8:
            image = _with_noise(image.float() / 127.5 - 1, random, settings)
        channels, height, width = latents.shape[1:]
        return {
            "image": image.float(),
            "image_noise": random.normal((channels, 1, height, width), "image latent"),
            "image_mask": torch.tensor(random.uniform("image dropout") >= (settings.condition_dropout or 0)),
        }

    @torch.no_grad()
    def latents(self, extras: Tensors, latents: torch.Tensor, vae: Any) -> torch.Tensor:
        """The image latent in the first frame and zeros in the others; only zeros if the image was dropped.

        CogVideoX 1.5's padding frame counts as the first frame, as in the diffusers pipeline.
        """
        moments = extras["image"]
        if moments.ndim == 4:  # pixels
            moments = vae.encode(moments[:, :, None].to(vae.dtype)).latent_dist.parameters
        latents_BC1HW = sample_latents(moments.float(), extras["image_noise"]) * image_scale(vae.config)
        condition = torch.zeros_like(latents)
        condition[:, :1] = latents_BC1HW.transpose(1, 2) * extras["image_mask"].view(-1, 1, 1, 1, 1)
        return condition


def _with_noise(pixels: torch.Tensor, random: SampleRandomness, settings: TaskSettings) -> torch.Tensor:
    """Adds noise of random strength exp(N(mean, std)), drawn for every sample, as CogVideoX-5B-I2V was trained."""
    assert settings.image_noise_mean is not None
    assert settings.image_noise_std is not None
    strength = random.normal((), "image noise strength").item()
    sigma = math.exp(settings.image_noise_mean + settings.image_noise_std * strength)
    return pixels + sigma * random.normal(pixels.shape, "image noise")
