"""Conditions that are a whole video, encoded like the clip.

Random ones (prefixes, masks) are encoded in advance as well: all of a clip's variants, of which each sample draws one.
The VAE is then not needed in the training loop.
"""

from functools import partial
from typing import Any

import numpy as np
import torch

from cogvx_exp.config.schema import Task as TaskSettings
from cogvx_exp.core.randomness import SampleRandomness
from cogvx_exp.data.control.hiding import FRAMES_PER_LATENT, masked
from cogvx_exp.data.control.reading import ClipFrames
from cogvx_exp.data.control.recipes import Recipe, recipe_of
from cogvx_exp.data.factory_latents import LatentFiles
from cogvx_exp.diffusion.latents import LatentSpace, padded
from cogvx_exp.tasks.base import Cached, Tensors
from cogvx_exp.tasks.conditions import Condition


def condition_latents(moments: torch.Tensor, space: LatentSpace) -> torch.Tensor:
    """Latents of a condition video, (F, C, H, W): the mean of their distribution, as CogVideoXFunControlPipeline takes
    it, padded like the clip's.

    Args:
        moments: of the video, (2C, F, H, W).
        space: properties of the model.
    """
    mean = moments.float().chunk(2, dim=0)[0].transpose(0, 1)
    return padded(mean * space.scaling_factor, space.patch_size_t)


class ConditionVideo(Condition):
    """One video beside the clip."""

    given = "control"
    label = "video-to-video"
    pipeline = "CogVideoXFunControlPipeline"

    def cached(self, settings: TaskSettings) -> dict[str, Cached]:
        """Moments of the video."""
        return {"control": Cached("control video", LatentFiles.required_control, video=_control, uses_control=True)}

    def draw(
        self,
        cached: Tensors,
        latents: torch.Tensor,
        random: SampleRandomness,
        settings: TaskSettings,
        space: LatentSpace,
    ) -> dict[str, torch.Tensor]:
        """The condition's latents, and whether the sample keeps them."""
        (moments,) = cached.values()
        return {
            "control": condition_latents(moments, space),
            "control_mask": torch.tensor(random.uniform("condition dropout") >= (settings.condition_dropout or 0)),
        }

    def latents(self, extras: Tensors, latents: torch.Tensor, vae: Any) -> torch.Tensor:
        """The condition's latents; zeros for samples that dropped it."""
        return extras["control"] * extras["control_mask"].view(-1, 1, 1, 1, 1)


class HiddenPart(ConditionVideo):
    """The clip with a part hidden: all but the first and the last frame."""

    def variants(self, settings: TaskSettings) -> list[Recipe]:
        """The ways of hiding a part of a clip, of which each sample draws one."""
        return [Recipe("first_last")]

    def cached(self, settings: TaskSettings) -> dict[str, Cached]:
        """Moments of each variant."""
        return {
            str(recipe): Cached(str(recipe), LatentFiles.required_control, video=partial(_hidden, recipe))
            for recipe in self.variants(settings)
        }

    def needed(self, settings: TaskSettings, random: SampleRandomness) -> list[str]:
        """One variant."""
        names = list(self.cached(settings))
        return [names[int(random.uniform("which condition") * len(names))]]

    def hides(self, settings: TaskSettings, number: int) -> Recipe | None:
        """The variants in turn."""
        variants = self.variants(settings)
        return variants[number % len(variants)] if variants else None


class Prefix(HiddenPart):
    """Only the first frames, of which there may be several numbers."""

    def variants(self, settings: TaskSettings) -> list[Recipe]:
        """Each number of frames; the longest first, since validation begins with it."""
        assert settings.prefix_frames
        fewest, most = settings.prefix_frames
        return [recipe_of("prefix", {"count": count}) for count in range(most, fewest - 1, -FRAMES_PER_LATENT)]


class Masked(HiddenPart):
    """The clip without what a mask covers: one of several random masks, or that of a mask video."""

    def variants(self, settings: TaskSettings) -> list[Recipe]:
        """The random masks; none with mask videos."""
        count = settings.masks if isinstance(settings.masks, int) else 0
        return [recipe_of("mask", {"number": number}) for number in range(count)]

    def cached(self, settings: TaskSettings) -> dict[str, Cached]:
        """Moments of each variant, or of the clip without what its mask video covers."""
        if settings.masks != "files":
            return super().cached(settings)
        return {"mask": Cached("masked", LatentFiles.required_control, video=_masked, uses_control=True)}


def _hidden(recipe: Recipe, frames: ClipFrames) -> np.ndarray:
    return recipe.apply(frames.clip)


def _masked(frames: ClipFrames) -> np.ndarray:
    assert frames.control is not None, "the reader was told to read it"
    return masked(frames.clip, frames.control)


def _control(frames: ClipFrames) -> np.ndarray:
    assert frames.control is not None, "the reader was told to read it"
    return frames.control
