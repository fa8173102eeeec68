"""Scores from the frames alone, without OpenCV."""

import numpy as np

from cogvx_exp.evaluation.scores.reduced import luma, sampled, small

STILL = 3
"""Maximum change of brightness, of 255, of a pixel that counts as static. Decoded backgrounds change by one or two."""
LEVELS = 64
"""Quantiles by which distributions of colours are compared."""


def sharpness(frames: np.ndarray) -> float:
    """Variance of the Laplacian of the brightness, the median over frames, as `filter.sharpness`."""
    grey = luma(small(sampled(frames), 480))
    middle = grey[:, 1:-1, 1:-1]
    edges = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:] - 4 * middle
    return float(np.median(edges.var(axis=(1, 2))))


def static(frames: np.ndarray) -> float:
    """Share of pixels that do not change from one frame to the next, over all frames: 1 for a still."""
    return float((np.abs(np.diff(luma(small(frames)), axis=0)) <= STILL).mean())


def colour_drift(frames: np.ndarray) -> float:
    """How far colours move from the first third of the video to the last, in percent of the range.

    The distance between the distributions of each channel's values (1-Wasserstein), which the motion of things within
    the picture hardly changes.
    """
    third = max(len(frames) // 3, 1)
    first, last = (_quantiles(small(part)) for part in (frames[:third], frames[-third:]))
    return float(np.abs(first - last).mean() / 255 * 100)


def _quantiles(frames: np.ndarray) -> np.ndarray:
    return np.quantile(frames.reshape(-1, 3), np.linspace(0, 1, LEVELS), axis=0)
