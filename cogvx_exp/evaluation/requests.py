"""Prompts and start images of a validation."""

import numpy as np

from cogvx_exp.config.rules.prompts import read_prompts
from cogvx_exp.config.schema import TrainJob, Validation
from cogvx_exp.core.errors import UserError
from cogvx_exp.data.dataset import Clip
from cogvx_exp.data.frames import choose_frames
from cogvx_exp.data.start_image import frame_of, listed_images


def validation_prompts(validation: Validation, clips: list[Clip]) -> list[str]:
    """The configured prompts, or captions of the first clips."""
    if validation.prompts is None:
        return [clip.row.captions[0] for clip in clips[: validation.num_prompts]]
    return read_prompts(validation.prompts, validation.separator, "validation.prompts")


def start_images(job: TrainJob, clips: list[Clip], count: int) -> list[str]:
    """One image per prompt: the configured ones, or the first frames of clips as in training.

    Raises:
        UserError: the clips have no frames, or the numbers of images and prompts differ.
    """
    validation = job.validation
    assert isinstance(validation, Validation)
    if validation.images is not None:
        return listed_images(validation.images, validation.separator, "validation.images").one_for_each(count)
    chosen = [clips[index % len(clips)] for index in range(count)]
    if any(clip.latents for clip in chosen):
        raise UserError("validation.images=null: data=latents has no frames to start from; give one image per prompt")
    return [frame_of(clip.row.key, _first_frame(job, clip)) for clip in chosen]


def _first_frame(job: TrainJob, clip: Clip) -> int:
    """Index of the video frame that the clip starts with."""
    starts = np.arange(clip.info.num_frames) / clip.info.fps
    return choose_frames(job.data, clip.bucket.num_frames).indices(starts)[0]
