"""Trains the tiny model's autoencoder on generated scenes.

Like other video autoencoders, it sees more data than the transformer: all shapes, directions and styles, in any
colours. The transformer is only trained on some of these.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX
from torch.nn import functional

from cogvx_exp.console.progress import Bar
from cogvx_exp.demo.scenes import all_scenes, draw_scene, varied

FRAMES, SIZE = 9, 32
BATCH = 8
POOL = 3000
"""Number of clips generated before training."""
RADII = (0.22, 0.34)
"""Half sizes of the shapes, in frame heights: more than the transformer is trained on."""
SHAPE_WEIGHT = 5.0
"""Weight of the error on shapes: they are a tenth of the frame, and all that differs between clips."""


@dataclass(frozen=True)
class Phase:
    """A stage of the training with its own one-cycle learning rate."""

    steps: int
    """Batches of 8 clips of 9x32x32."""
    peak_lr: float
    recoloured: float
    """Fraction of clips with permuted channels and changed contrast."""
    kl_weight: float
    """Weight of the mean Kullback-Leibler divergence of a latent value from a unit Gaussian. Larger values make
    decoding more robust to the transformer's errors, but training takes longer."""


PHASES = (
    Phase(1700, 2e-3, 0.5, 1.25e-5),
    Phase(1600, 1.5e-3, 0.0, 1.25e-5),
    Phase(1600, 1.5e-3, 0.0, 6e-4),
    Phase(1000, 1.5e-3, 0.0, 1e-2),
    # A lower weight again: the divergence has smoothed the latents, but also the edges.
    Phase(700, 1.2e-3, 0.25, 2e-3),
)


@dataclass(frozen=True)
class Trained:
    """An autoencoder and its quality."""

    vae: AutoencoderKLCogVideoX
    l1: float
    """Mean absolute error on unseen clips, pixels in [-1, 1]."""


def train_vae(arguments: dict[str, Any], phases: Sequence[Phase], seed: int) -> Trained:
    """Trains an autoencoder and sets its scaling factor so that latents have unit variance.

    Args:
        arguments: arguments of AutoencoderKLCogVideoX.
        phases: the stages, in order.
        seed: random seed.
    """
    torch.manual_seed(seed)
    vae = AutoencoderKLCogVideoX(**arguments)
    clips, unseen = _draw(POOL, seed), _pixels(_draw(64, seed + 1))
    for number, phase in enumerate(phases, 1):
        torch.manual_seed(seed + number)
        _train(vae, clips, phase)
    vae.eval()
    with torch.no_grad():
        latents = vae.encode(unseen).latent_dist.mode()
        l1 = functional.l1_loss(vae.decode(latents).sample, unseen).item()
    # The noise schedule assumes latents of unit variance.
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 4))
    return Trained(vae, l1)


def _train(vae: AutoencoderKLCogVideoX, clips: torch.Tensor, phase: Phase) -> None:
    optimizer = torch.optim.AdamW(vae.parameters(), phase.peak_lr, weight_decay=1e-4)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, phase.peak_lr, total_steps=phase.steps, pct_start=0.2)
    with Bar("Training the autoencoder", phase.steps) as bar:
        for step in range(1, phase.steps + 1):
            batch = _pixels(clips[torch.randint(len(clips), (BATCH,))])
            _recolour(batch[: round(phase.recoloured * BATCH)])
            latents = vae.encode(batch).latent_dist
            decoded = vae.decode(latents.sample()).sample
            error, weight = decoded - batch, _weight(batch)
            divergence = (latents.mean.square() + latents.var - 1 - latents.logvar).mean() / 2
            loss = (weight * (error.abs() + error.square())).sum() / weight.sum() / 3 + phase.kl_weight * divergence
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
            optimizer.step()
            rates.step()
            bar.show(step, f"L1 {error.abs().mean():.4f}")


def _draw(count: int, seed: int) -> torch.Tensor:
    """Clips of all kinds of scenes: uint8, (count, 3, frames, height, width)."""
    chance = random.Random(seed)
    scenes = all_scenes()
    some = [replace(varied(chance.choice(scenes), chance), radius=chance.uniform(*RADII)) for _ in range(count)]
    frames = [draw_scene(scene, FRAMES, SIZE, SIZE) for scene in some]
    return torch.from_numpy(np.stack(frames)).permute(0, 4, 1, 2, 3).contiguous()


def _pixels(clips: torch.Tensor) -> torch.Tensor:
    return clips.float() / 127.5 - 1


def _recolour(clips: torch.Tensor) -> None:
    """Permutes the channels of each clip in place and changes their contrast."""
    for clip in clips:
        clip.copy_(clip[torch.randperm(3)] * torch.empty(3, 1, 1, 1).uniform_(0.5, 1))


def _weight(clips: torch.Tensor) -> torch.Tensor:
    """Weight of each pixel's error, (B, 1, F, H, W)."""
    # The median pixel is background, since shapes cover less than half of a frame.
    background = clips.flatten(2).median(2).values[:, :, None, None, None]
    shape = (clips - background).abs().amax(1, keepdim=True) > 0.1
    return 1 + (SHAPE_WEIGHT - 1) * shape.float()
