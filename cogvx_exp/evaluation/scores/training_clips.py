"""Scores that compare a video with the clips that the model was trained on."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from cogvx_exp.data.decoding import read_clip
from cogvx_exp.evaluation.scores.picture import sharpness
from cogvx_exp.evaluation.scores.reduced import SAMPLES, luma, resized, sampled, small

THUMBNAIL = 32
"""Height and width of a frame in a clip's thumbnails, in pixels."""
SMALLEST = np.array([0.02, 0.02, 0.02, 0.02, 0.02, 0.2, 0.2], dtype=np.float32)
"""A difference in each statistic that means little, even if all clips agree more closely."""
AMOUNT = len(SMALLEST)
"""Number of statistics."""


@dataclass(frozen=True)
class TrainingClips:
    """Features of training clips: of all, or of some of many."""

    statistics: np.ndarray
    """`statistics` of each clip, (clips, statistics)."""
    thumbnails: np.ndarray
    """`thumbnails` of each clip and, with data.random_flip, of its mirror image, (thumbnails, values)."""


def statistics(frames: np.ndarray) -> np.ndarray:
    """What a clip looks like as a whole, float32: brightness, contrast, saturation, the balance of red and green and of
    blue and yellow, and the logarithms of sharpness and of the change from frame to frame.
    """
    few = small(sampled(frames))
    grey, (red, green, blue) = luma(few) / 255, np.moveaxis(few.astype(np.float32) / 255, -1, 0)
    saturation = few.max(axis=-1).astype(np.float32) - few.min(axis=-1)
    change = np.abs(np.diff(luma(small(frames)), axis=0)).mean() if len(frames) > 1 else 0.0
    return np.array(
        [
            grey.mean(),
            grey.std(axis=(1, 2)).mean(),
            saturation.mean() / 255,
            (red - green).mean(),
            (blue - (red + green) / 2).mean(),
            np.log(sharpness(frames) + 1),
            np.log(change + 0.5),
        ],
        dtype=np.float32,
    )


def thumbnails(frames: np.ndarray) -> np.ndarray:
    """A few small frames, evenly spaced, uint8, (SAMPLES, THUMBNAIL, THUMBNAIL, 3)."""
    chosen = [round(index) for index in np.linspace(0, len(frames) - 1, SAMPLES)]
    return resized(frames[chosen], THUMBNAIL, THUMBNAIL)


def features_of(*task: Any) -> tuple[np.ndarray, np.ndarray]:
    """Statistics and thumbnails of a clip, in a worker process. `task`: the arguments of `read_clip`."""
    frames = read_clip(*task)
    return statistics(frames), thumbnails(frames)


def training_clips(features: list[tuple[np.ndarray, np.ndarray]], *, mirrored: bool) -> TrainingClips:
    """The clips of these statistics and thumbnails; `mirrored`: whether they are also seen mirrored."""
    small_frames = np.stack([frames for _, frames in features])
    if mirrored:
        small_frames = np.concatenate([small_frames, small_frames[:, :, :, ::-1]])
    return TrainingClips(np.stack([values for values, _ in features]), _normalized(small_frames))


def likeness(frames: np.ndarray, clips: TrainingClips) -> float:
    """Likeness to the training clips as a whole, 0 to 1: 1 / (1 + d), with d the mean distance of the video's
    statistics from the range of the middle 90% of the clips, in standard deviations.
    """
    found, (low, high) = statistics(frames), np.quantile(clips.statistics, [0.05, 0.95], axis=0)
    outside = np.maximum(np.maximum(low - found, found - high), 0)
    return float(1 / (1 + (outside / np.maximum(clips.statistics.std(axis=0), SMALLEST)).mean()))


def copying(frames: np.ndarray, clips: TrainingClips) -> float:
    """Correlation between small versions of the video and of the training clip nearest to it; 1: a copy.

    Frames are compared in order, so the same picture moving in another way is no copy.
    """
    return float((clips.thumbnails @ _normalized(thumbnails(frames)[None])[0]).max())


def _normalized(videos: np.ndarray) -> np.ndarray:
    """Videos without their mean colour, as vectors of length 1, whose products are correlations."""
    values = videos.astype(np.float32)
    values = (values - values.mean(axis=(1, 2, 3), keepdims=True)).reshape(len(values), -1)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)
