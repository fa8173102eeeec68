"""Batches whose clips are decoded and encoded during training, with fresh crops and flips."""

from collections.abc import Iterator
from typing import Any

import torch

from cogvx_exp.config.schema import Data
from cogvx_exp.core.errors import UserError
from cogvx_exp.data.control.reading import ClipFrames, control_source, read_with_control
from cogvx_exp.data.dataset import Clip
from cogvx_exp.data.decoding import DecodingPool
from cogvx_exp.data.frames import choose_frames
from cogvx_exp.data.issues import ClipError
from cogvx_exp.data.resize import ResizeSpec
from cogvx_exp.diffusion.batch import Batch, collate
from cogvx_exp.latents.context import PipelineContext
from cogvx_exp.latents.encode import encode_videos, to_pixels
from cogvx_exp.loading.sampler import BatchStream, SampleIndex
from cogvx_exp.loading.samples import TrainingSamples
from cogvx_exp.model.load import load_vae
from cogvx_exp.tasks.base import Task


def online_batches(
    samples: TrainingSamples, stream: BatchStream, clips: list[Clip], data: Data, context: PipelineContext
) -> Iterator[Batch]:
    """Endless iterator of batches in host memory; worker processes decode ahead, and the VAE stays in memory.

    Raises:
        UserError: a clip cannot be decoded.
    """
    vae, device = load_vae(context.folder, context.compute, context.memory), context.compute.device
    with DecodingPool(data.decode_workers, data.decode_timeout) as pool:
        # The stream has no state, so it is iterated twice: ahead for decoding, and below for batches.
        tasks = (_task(draw, clips[draw.clip], samples, data) for draws in stream for draw in draws)
        decoded = pool.map(read_with_control, tasks)
        for draws in stream:
            frames = [_frames(next(decoded), clips[draw.clip]) for draw in draws]
            # To the host: samples are made there, with generators that are the same on every machine.
            moments = encode_videos(to_pixels([found.clip for found in frames], device, data.pin_memory), vae).cpu()
            extras = _extras(context.task, [samples.needed(draw) for draw in draws], frames, vae, data.pin_memory)
            made = [
                samples.sample(draw, of_clip, of_task)
                for draw, of_clip, of_task in zip(draws, moments, extras, strict=True)
            ]
            batch = collate(made)
            yield batch.pin_memory() if data.pin_memory and device.type == "cuda" else batch


def _extras(
    task: Task, needed: list[list[str]], frames: list[ClipFrames], vae: Any, pin_memory: bool
) -> list[dict[str, torch.Tensor]]:
    """The task's tensors of each sample, by name."""
    extras: list[dict[str, torch.Tensor]] = [{} for _ in frames]
    videos = []
    for number, (names, found) in enumerate(zip(needed, frames, strict=True)):
        for name in names:
            item = task.cached[name]
            if item.make:
                extras[number][name] = item.make(found.clip)
            elif item.video:
                videos.append((number, name, item.video(found)))
    if videos:
        moments = encode_videos(to_pixels([video for *_, video in videos], vae.device, pin_memory), vae).cpu()
        for (number, name, _), of_video in zip(videos, moments, strict=True):
            extras[number][name] = of_video
    return extras


def _task(draw: SampleIndex, clip: Clip, samples: TrainingSamples, data: Data) -> tuple[Any, ...]:
    position = samples.crop_position(draw) if data.reshape == "random" else (0.5, 0.5)
    fit = ResizeSpec(data.reshape, position, samples.flipped(draw))
    choice, control = choose_frames(data, clip.bucket.num_frames), control_source(data, clip.control)
    return clip.row.path, choice, clip.bucket, fit, clip.info, control, clip.row.window


def _frames(decoded: ClipFrames | ClipError, clip: Clip) -> ClipFrames:
    if isinstance(decoded, ClipError):
        raise UserError(f"{clip.name}: {decoded}")
    return decoded
