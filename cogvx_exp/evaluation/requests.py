"""Prompts, start images and control videos of a validation."""

import numpy as np

from cogvx_exp.config.rules.prompts import read_prompts
from cogvx_exp.config.schema import Data, TrainJob, Validation
from cogvx_exp.core.errors import UserError
from cogvx_exp.data.control.reading import control_source
from cogvx_exp.data.control.recipes import Recipe, parse_control
from cogvx_exp.data.dataset import Clip
from cogvx_exp.data.frames import choose_frames
from cogvx_exp.data.start_image import frame_of, listed_images
from cogvx_exp.evaluation.sampling import Given
from cogvx_exp.tasks.base import Task


def validation_prompts(validation: Validation, clips: list[Clip]) -> list[str]:
    """The configured prompts, or captions of the first clips."""
    if validation.prompts is None:
        return [clip.row.captions[0] for clip in clips[: validation.num_prompts]]
    return read_prompts(validation.prompts, validation.separator, "validation.prompts")


def given_conditions(job: TrainJob, task: Task, clips: list[Clip], count: int) -> list[Given] | None:
    """What the task's videos are conditioned on besides the prompts, one per prompt.

    Raises:
        UserError: there is nothing to take it from, or numbers differ.
    """
    if task.given == "image":
        return [Given(image=image) for image in start_images(job, clips, count)]
    return controls(job, clips, count) if task.given == "control" else None


def controls(job: TrainJob, clips: list[Clip], count: int) -> list[Given]:
    """One condition video per prompt: the configured ones, or those of clips as in training.

    Raises:
        UserError: the clips have no frames, or the numbers of controls and prompts differ.
    """
    validation = job.validation
    assert isinstance(validation, Validation)
    if validation.controls is not None:
        listed = listed_images(validation.controls, validation.separator, "validation.controls").one_for_each(count)
        return [Given(control=computed(control, job.data)) for control in listed]
    chosen = [clips[index % len(clips)] for index in range(count)]
    if any(clip.latents for clip in chosen):
        raise UserError("validation.controls=null: data=latents has no frames; give one control video per prompt")
    return [_control(job, clip, validation.num_frames) for clip in chosen]


def _control(job: TrainJob, clip: Clip, num_frames: int) -> Given:
    starts = np.arange(clip.info.num_frames) / clip.info.fps
    times = tuple(float(starts[index]) for index in choose_frames(job.data, num_frames).indices(starts))
    source = clip.control.path if clip.control else computed(clip.row.path, job.data)
    return Given(control=source, control_times=times)


def computed(source: str, data: Data) -> str:
    """The name of the control video that the settings make of a video; one that already says how it is made is kept."""
    recipe, _ = parse_control(source)
    own = control_source(data, None)
    return f"{own} of {source}" if isinstance(own, Recipe) and recipe is None else source


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
    return [frame_of(clip.row.path, _first_frame(job, clip)) for clip in chosen]


def _first_frame(job: TrainJob, clip: Clip) -> int:
    """Index of the video frame that the clip starts with."""
    starts = np.arange(clip.info.num_frames) / clip.info.fps
    return choose_frames(job.data, clip.bucket.num_frames).indices(starts)[0]
