"""Trains the tiny model's autoencoder on scenes that are drawn as it goes.

Like the autoencoder of any video model, it has seen more than the denoiser: all shapes, directions and styles, in any
colours. The denoiser learns a part of the world only.
"""

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX
from torch.nn import functional

from cogvx_exp.tracking.progress import Bar
from cogvx_exp.world.scenes import DIRECTIONS, SHAPES, STYLES, all_scenes, draw_scene, varied

FRAMES, SIZE = 9, 32
BATCH = 8
PEAK_LR = 2e-3
KL_WEIGHT = 1e-4
"""Weight of the mean Kullback-Leibler divergence from a unit Gaussian: small, as in latent diffusion."""
POOL = 3000
"""Clips that are drawn before training."""


@dataclass(frozen=True)
class Trained:
    """An autoencoder and how good it is."""

    vae: AutoencoderKLCogVideoX
    l1: float
    """Mean absolute error on clips it has not seen, pixels in [-1, 1]."""


def train_vae(arguments: dict[str, Any], steps: int, seed: int) -> Trained:
    """Trains an autoencoder and sets its scaling factor, so that latents have unit variance.

    Args:
        arguments: of AutoencoderKLCogVideoX.
        steps: batches of 8 clips of 9x32x32.
        seed: decides everything.
    """
    torch.manual_seed(seed)
    vae = AutoencoderKLCogVideoX(**arguments)
    clips, unseen = _draw(POOL, seed), _draw(64, seed + 1)
    optimizer = torch.optim.AdamW(vae.parameters(), PEAK_LR, weight_decay=1e-4)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=steps)
    with Bar("Training the autoencoder", steps) as bar:
        for step in range(1, steps + 1):
            batch = _recoloured(clips[torch.randint(len(clips), (BATCH,))])
            latents = vae.encode(batch).latent_dist
            decoded = vae.decode(latents.sample()).sample
            error = functional.l1_loss(decoded, batch)
            divergence = latents.kl().mean() / latents.mean[0].numel()
            loss = error + functional.mse_loss(decoded, batch) + KL_WEIGHT * divergence
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
            optimizer.step()
            rates.step()
            bar.show(step, f"L1 {error:.4f}")
    vae.eval()
    with torch.no_grad():
        latents = vae.encode(_pixels(unseen)).latent_dist.mode()
        l1 = functional.l1_loss(vae.decode(latents).sample, _pixels(unseen)).item()
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 4))
    return Trained(vae, l1)


def _draw(count: int, seed: int) -> torch.Tensor:
    """Clips of the whole world: uint8, (count, 3, frames, height, width)."""
    chance = random.Random(seed)
    scenes = [scene for style in STYLES for scene in all_scenes(SHAPES, tuple(DIRECTIONS), style)]
    frames = [draw_scene(varied(chance.choice(scenes), chance), FRAMES, SIZE, SIZE) for _ in range(count)]
    return torch.from_numpy(np.stack(frames)).permute(0, 4, 1, 2, 3).contiguous()


def _pixels(clips: torch.Tensor) -> torch.Tensor:
    return clips.float() / 127.5 - 1


def _recoloured(clips: torch.Tensor) -> torch.Tensor:
    """The clips as pixels in [-1, 1]; half of them with their channels exchanged and their contrast changed."""
    pixels = _pixels(clips)
    for clip in pixels[: len(pixels) // 2]:
        clip.copy_(clip[torch.randperm(3)] * torch.empty(3, 1, 1, 1).uniform_(0.5, 1))
    return pixels
