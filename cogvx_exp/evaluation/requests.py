"""Prompts, start images and control videos of a validation."""

import numpy as np

from cogvx_exp.config.rules.prompts import read_prompts
from cogvx_exp.config.schema import Data, GenerateJob, TrainJob, Validation
from cogvx_exp.core.errors import UserError
from cogvx_exp.data.control.reading import control_source
from cogvx_exp.data.control.recipes import Recipe, hidden_by, parse_control
from cogvx_exp.data.dataset import Clip
from cogvx_exp.data.frames import choose_frames
from cogvx_exp.data.start_image import frame_of, listed_images
from cogvx_exp.evaluation.adapter import Adapter
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
    return controls(job, task, clips, count) if task.given == "control" else None


def controls(job: TrainJob, task: Task, clips: list[Clip], count: int) -> list[Given]:
    """One condition video per prompt: the configured ones, or those of clips as in training.

    Raises:
        UserError: the clips have no frames, or the numbers of controls and prompts differ.
    """
    validation = job.validation
    assert isinstance(validation, Validation)
    if validation.controls is not None:
        listed = listed_images(validation.controls, validation.separator, "validation.controls").one_for_each(count)
        return [Given(control=computed(control, job.data, task)) for control in listed]
    chosen = [clips[index % len(clips)] for index in range(count)]
    if any(clip.latents for clip in chosen):
        raise UserError("validation.controls=null: data=latents has no frames; give one control video per prompt")
    return [_control(job, task, clip, number) for number, clip in enumerate(chosen)]


def _control(job: TrainJob, task: Task, clip: Clip, number: int) -> Given:
    starts = np.arange(clip.info.num_frames) / clip.info.fps
    assert isinstance(job.validation, Validation)
    choice = choose_frames(job.data, job.validation.num_frames)
    times = tuple(float(starts[index]) for index in choice.indices(starts))
    if clip.control and task.settings.condition == "mask":
        source = hidden_by(clip.row.key, clip.control.key)
    else:
        source = clip.control.key if clip.control else computed(clip.row.key, job.data, task, number)
    return Given(control=source, control_times=times)


def computed(source: str, data: Data | None, task: Task, number: int = 0) -> str:
    """The name of the condition video that the settings make of a video; one that says how it is made is kept.

    Args:
        source: path of a video, or `RECIPE of VIDEO`.
        data: the settings of the data, if known.
        task: the task, some of which hide a part of the video.
        number: of the prompt; chooses among random conditions.
    """
    if parse_control(source)[0]:
        return source
    own = task.hides(number) or (control_source(data, None) if data else None)
    return f"{own} of {source}" if isinstance(own, Recipe) else source


def conditions_of(job: GenerateJob, task: Task, adapters: list[Adapter], count: int) -> list[Given] | None:
    """What `generate` conditions videos on besides the prompts, one per prompt.

    Raises:
        UserError: numbers differ, or the task needs something else.
    """
    settings, data = job.generate, next((adapter.data for adapter in adapters if adapter.data), None)
    images, controls = (
        listed_images(given, settings.separator, f"generate.{name}").sources if given else []
        for name, given in (("images", settings.images), ("controls", settings.controls))
    )
    needed = "control" if controls and not adapters else task.given
    numbers = {"images": len(images), "controls": len(controls)}
    wanted = {"images": count * (needed == "image"), "controls": count * (needed == "control")}
    for name, word in (("images", "image"), ("controls", "control video")):
        if numbers[name] != wanted[name]:
            does = f"model={job.model.name} is for {job.model.tasks[0]}"
            does = f"the adapter was trained with task={task.settings.name}" if adapters else does
            what = f"one {word} per prompt ({count})" if wanted[name] else f"no {word}s"
            raise UserError(f"{does} and needs {what}, but generate.{name} has {numbers[name]}")
    if controls:
        return [Given(control=computed(control, data, task)) for control in controls]
    return [Given(image=image) for image in images] if images else None


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
