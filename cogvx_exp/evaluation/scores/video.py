"""What a score may ask for: a video's frames, and what is known about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from cogvx_exp.data.control.hiding import HIDDEN
from cogvx_exp.data.control.recipes import HIDDEN_BY, OF_CLIPS, parse_control
from cogvx_exp.evaluation.scores.reduced import flows
from cogvx_exp.evaluation.scores.training_clips import TrainingClips

if TYPE_CHECKING:  # it imports torch
    from cogvx_exp.evaluation.sampling import VideoRequest

INPUTS = ("prompt", "fps", "image", "condition", "clips", "flow")
"""What a score gets besides the frames if it has a parameter of this name: the attributes of `ScoredVideo`."""


@dataclass(frozen=True)
class Condition:
    """A condition video, and how the same condition is computed from any video."""

    frames: np.ndarray
    """uint8, (frames, height, width, 3)."""
    of: Callable[[np.ndarray], np.ndarray]
    """The condition of other frames of the same shape."""
    hidden: bool = False
    """Whether mid-grey pixels of the condition are hidden, so they say nothing."""


@dataclass(frozen=True)
class ScoredVideo:
    """A video to be scored."""

    frames: np.ndarray
    """uint8, (frames, height, width, 3)."""
    prompt: str = ""
    fps: float = 8.0
    image: np.ndarray | None = None
    """The start image at the video's size, uint8, (height, width, 3)."""
    condition: Condition | None = None
    """The condition video, if it can be computed from a video."""
    clips: TrainingClips | None = None
    """The clips that the model was trained on."""

    @cached_property
    def flow(self) -> np.ndarray:
        """Optical flow between consecutive frames of reduced size, (frames - 1, height, width, 2), in pixels."""
        # Here and not in a score: it takes longer than the scores that use it.
        return flows(self.frames)


def scored_video(
    frames: np.ndarray,
    request: VideoRequest,
    images: Mapping[VideoRequest, Image.Image],
    controls: Mapping[VideoRequest, np.ndarray],
    clips: TrainingClips | None = None,
) -> ScoredVideo:
    """A sampled video with its request's start image or condition video."""
    image = np.asarray(images[request]) if request in images else None
    condition = condition_of(request.control, controls[request]) if request.control and request in controls else None
    return ScoredVideo(frames, request.prompt, float(request.fps), image, condition, clips)


def condition_of(control: str, frames: np.ndarray) -> Condition | None:
    """A condition video; None if it cannot be computed from a video, as with depth maps from a file.

    Args:
        control: its name in `VideoRequest.control`.
        frames: the condition video.
    """
    recipe, _ = parse_control(control)
    if HIDDEN_BY.fullmatch(control) or (recipe and recipe.name in OF_CLIPS and recipe.name != "video"):
        # Not by the recipe: what it hides may depend on the clip.
        return Condition(frames, lambda other: np.where(frames == HIDDEN, HIDDEN, other), hidden=True)
    return None if recipe is None or recipe.name == "video" else Condition(frames, recipe.apply)


def absent_inputs(requests: Sequence[VideoRequest], clips: str | None) -> dict[str, str]:
    """What scores cannot have, by the names of the inputs.

    Args:
        requests: the videos.
        clips: why there are no training clips; None if there are.
    """
    absent = {"clips": clips} if clips else {}
    if not all(request.image for request in requests):
        absent["image"] = "a start image, which task=i2v has"
    nothing = np.zeros((1, 1, 1, 3), np.uint8)
    if not all(request.control for request in requests):
        absent["condition"] = "a condition video, which task=control has"
    elif not all(condition_of(request.control or "", nothing) for request in requests):
        absent["condition"] = "a condition that can be computed from any video, not one from a file"
    return absent
