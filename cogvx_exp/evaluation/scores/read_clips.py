"""Reads the features of training clips from the cache; those that are missing are computed from the videos."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from cogvx_exp.config.schema import Data
from cogvx_exp.console.progress import progress
from cogvx_exp.data.dataset import Clip
from cogvx_exp.data.decoding import DecodingPool
from cogvx_exp.data.frames import choose_frames
from cogvx_exp.data.index.files import content_hashes
from cogvx_exp.data.issues import ClipError
from cogvx_exp.data.resize import ResizeSpec
from cogvx_exp.evaluation.scores.reduced import SAMPLES
from cogvx_exp.evaluation.scores.training_clips import (
    AMOUNT,
    THUMBNAIL,
    TrainingClips,
    features_of,
    training_clips,
)
from cogvx_exp.latents.context import PipelineContext
from cogvx_exp.latents.prepare import pixels_of
from cogvx_exp.media.spacing import spread

MOST = 256
"""Clips that are read; of more, as many that are evenly spread over the dataset."""
FEW = 100_000_000
"""Pixels of all frames that are decoded in less time than worker processes take to start."""
VERSION = 1
"""Increase it when the features of the same clip change."""

Features = tuple[np.ndarray, np.ndarray]
"""Statistics and thumbnails."""


def read_clips(clips: Sequence[Clip], data: Data, context: PipelineContext) -> TrainingClips | None:
    """The features of the training clips; None if none has frames. Processes share the work.

    Args:
        clips: the training clips.
        data: how their frames are chosen and resized.
        context: the cache, and the processes.
    """
    with_frames = [clip for clip in clips if not clip.latents]
    chosen = [with_frames[index] for index in spread(len(with_frames), MOST)]
    hashes = content_hashes({clip.row.path for clip in chosen}, context.cache_dir)
    cache, processes = context.cache, context.processes
    keys = {}
    for clip in chosen:
        made_from = pixels_of(clip, data, hashes[clip.row.path]) | {"reshape": data.reshape, "features": VERSION}
        keys[cache.key(made_from | {"part": "statistics"}), cache.key(made_from | {"part": "thumbnails"})] = clip
    shapes = (AMOUNT,), (SAMPLES, THUMBNAIL, THUMBNAIL, 3)

    def known(pair: tuple[str, str]) -> bool:
        return all(cache.has(key, shape) for key, shape in zip(pair, shapes, strict=True))

    missing = [pair for pair in list(keys)[processes.rank :: processes.world_size] if not known(pair)]
    if missing:
        computed = _computed([keys[pair] for pair in missing], data)
        for pair, features in zip(missing, computed, strict=True):
            # A clip that cannot be decoded is reported where it is trained on.
            if not isinstance(features, ClipError):
                for key, values in zip(pair, features, strict=True):
                    cache.save(key, torch.from_numpy(values))
    processes.barrier()
    found = [(cache.load(pair[0]).numpy(), cache.load(pair[1]).numpy()) for pair in keys if known(pair)]
    return training_clips(found, mirrored=bool(data.random_flip)) if found else None


def _computed(clips: list[Clip], data: Data) -> Iterator[Features | ClipError]:
    """The features of clips, or why a clip cannot be decoded."""
    tasks = [_task(clip, data) for clip in clips]
    pixels = sum(clip.info.num_frames * clip.info.height * clip.info.width for clip in clips)
    # Encoding has decoded these files before, in isolation, so here they cannot crash or hang.
    if data.encode == "cache" and pixels <= FEW:
        yield from (features_of(*task) for task in tasks)
        return
    with DecodingPool(min(data.decode_workers, len(clips)), data.decode_timeout) as pool:
        yield from progress("Reading clips for scores", pool.map(features_of, tasks), len(clips))


def _task(clip: Clip, data: Data) -> tuple[Any, ...]:
    # Random crops become center crops, as in validation.
    fit = ResizeSpec("center" if data.reshape == "random" else data.reshape)
    choice = choose_frames(data, clip.bucket.num_frames)
    return clip.row.path, choice, clip.bucket, fit, clip.info, clip.row.window
