"""Batches whose clips are decoded and encoded during training, with fresh crops and flips."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from cogvx_exp.config.schema import Data
from cogvx_exp.core.errors import UserError
from cogvx_exp.data.dataset import Clip
from cogvx_exp.data.decoding import DecodingPool, read_clip
from cogvx_exp.data.frames import choose_frames
from cogvx_exp.data.issues import ClipError
from cogvx_exp.data.resize import ResizeSpec
from cogvx_exp.diffusion.batch import Batch, collate
from cogvx_exp.latents.context import PipelineContext
from cogvx_exp.latents.encode import encode_videos, to_pixels
from cogvx_exp.loading.sampler import BatchStream, SampleIndex
from cogvx_exp.loading.samples import TrainingSamples
from cogvx_exp.model.load import load_vae


def online_batches(
    samples: TrainingSamples, stream: BatchStream, clips: list[Clip], data: Data, context: PipelineContext
) -> Iterator[Batch]:
    """Endless iterator of batches in host memory; worker processes decode ahead, and the VAE stays in memory.

    Raises:
        UserError: a clip cannot be decoded.
    """
    cached = context.task.cached.items()
    vae, device = load_vae(context.folder, context.compute, context.memory), context.compute.device
    with DecodingPool(data.decode_workers, data.decode_timeout) as pool:
        # The stream has no state, so it is iterated twice: ahead for decoding, and below for batches.
        tasks = (_task(draw, clips[draw.clip], samples, data) for draws in stream for draw in draws)
        decoded = pool.map(read_clip, tasks)
        for draws in stream:
            frames = [_frames(next(decoded), clips[draw.clip]) for draw in draws]
            # To the host: samples are made there, with generators that are the same on every machine.
            moments = encode_videos(to_pixels(frames, device, data.pin_memory), vae).cpu()
            made = [
                samples.sample(draw, of_clip, {name: item.make(of_frames) for name, item in cached})
                for draw, of_clip, of_frames in zip(draws, moments, frames, strict=True)
            ]
            batch = collate(made)
            yield batch.pin_memory() if data.pin_memory and device.type == "cuda" else batch


def _task(draw: SampleIndex, clip: Clip, samples: TrainingSamples, data: Data) -> tuple[Any, ...]:
    position = samples.crop_position(draw) if data.reshape == "random" else (0.5, 0.5)
    fit = ResizeSpec(data.reshape, position, samples.flipped(draw))
    return clip.row.path, choose_frames(data, clip.bucket.num_frames), clip.bucket, fit, clip.info, clip.row.window


def _frames(decoded: np.ndarray | ClipError, clip: Clip) -> np.ndarray:
    if isinstance(decoded, ClipError):
        raise UserError(f"{clip.name}: {decoded}")
    return decoded
