"""Scores of how closely a video follows the image or the video that it was conditioned on."""

import numpy as np

from cogvx_exp.data.control.hiding import HIDDEN
from cogvx_exp.evaluation.scores.reduced import luma, small
from cogvx_exp.evaluation.scores.video import Condition

MOST = 60.0
"""Decibels that equal images get, whose ratio is infinite."""


def first_frame(frames: np.ndarray, image: np.ndarray) -> float:
    """Peak signal-to-noise ratio between the first frame and the start image, in dB."""
    error = float(np.square(frames[0].astype(np.float32) - image).mean())
    return min(10 * np.log10(255**2 / error), MOST) if error else MOST


def condition(frames: np.ndarray, condition: Condition) -> float:
    """Correlation between the condition video and the same condition computed from the video; 1: it is followed.

    If the condition shows parts of a clip, only those parts count.
    """
    asked, followed = condition.frames, condition.of(frames)
    if condition.hidden:
        shown = (asked != HIDDEN).any(axis=-1)
        return _correlation(luma(asked)[shown], luma(followed)[shown])
    # Small, so that an edge which is off by a pixel still counts.
    return _correlation(luma(small(asked)), luma(small(followed)))


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    # In float64: sums over a video's pixels lose digits in float32.
    first, second = (values.astype(np.float64) - values.mean() for values in (first, second))
    size = np.sqrt(np.square(first).sum() * np.square(second).sum())
    return float((first * second).sum() / size) if size else 0.0
