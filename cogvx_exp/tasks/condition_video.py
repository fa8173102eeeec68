"""Conditions that are a whole video, encoded like the clip: `task.condition=video`."""

from typing import Any

import numpy as np
import torch

from cogvx_exp.config.schema import Task as TaskSettings
from cogvx_exp.core.randomness import SampleRandomness
from cogvx_exp.data.control.reading import ClipFrames
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


def _control(frames: ClipFrames) -> np.ndarray:
    assert frames.control is not None, "the reader was told to read it"
    return frames.control
