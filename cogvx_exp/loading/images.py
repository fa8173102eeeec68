"""The image condition of image-to-video: from noisy first frames to what goes into the model.

The noise is added to the pixels, before the VAE, so the frames are encoded in the loop: a cache of
their latents would freeze one noise for ever. One frame costs little; the VAE's decoder is not kept.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from cogvx_exp.latents.prepare import Encoder
from cogvx_exp.loading.samples import Batch, draw_latents
from cogvx_exp.model.load import load_vae


def image_scale(vae_config: Any) -> float:
    """What an image's latent is multiplied with, in training as in sampling.

    The diffusers pipeline divides by the scaling factor for CogVideoX 1.5 (invert_scale_latents),
    because the checkpoints were trained so.
    """
    factor = float(vae_config["scaling_factor"])
    return 1 / factor if vae_config["invert_scale_latents"] else factor


@torch.no_grad()
def image_condition(batch: Batch, vae: Any) -> torch.Tensor:
    """The image's latent in the first frame, zeros in the others: float32, (B, F, C, H, W).

    CogVideoX 1.5's padding frame counts as the first, as in the diffusers pipeline. Samples that do
    not keep their image get zeros only.
    """
    assert batch.image is not None
    assert batch.image_noise is not None
    assert batch.image_mask is not None
    moments = batch.image
    if moments.ndim == 4:  # pixels
        moments = vae.encode(moments[:, :, None].to(vae.dtype)).latent_dist.parameters
    latents_BC1HW = draw_latents(moments.float(), batch.image_noise) * image_scale(vae.config)
    condition = torch.zeros_like(batch.latents)
    condition[:, :1] = latents_BC1HW.transpose(1, 2) * batch.image_mask.view(-1, 1, 1, 1, 1)
    return condition


def with_images(batches: Iterator[Batch], encoder: Encoder) -> Iterator[Batch]:
    """The batches with their image conditions."""
    vae = load_vae(encoder.folder, encoder.compute, encoder.memory, encoder.image_scale)
    vae.decoder = None
    for batch in batches:
        yield replace(batch, image_latents=image_condition(batch, vae))
