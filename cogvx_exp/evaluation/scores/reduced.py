"""Small versions of a video, so that scores of 49 frames in full size take a second on a CPU."""

from itertools import pairwise

import numpy as np
from PIL import Image

from cogvx_exp.media.flow import optical_flow
from cogvx_exp.media.spacing import spread

HEIGHT = 144
"""Maximum height in pixels, as in `prepare mode=filter`."""
SAMPLES = 8
"""Frames of which single-frame properties are measured."""


def sampled(frames: np.ndarray, count: int = SAMPLES) -> np.ndarray:
    """At most `count` frames, evenly spaced from the first to the last."""
    return frames[spread(len(frames), count)]


def small(frames: np.ndarray, height: int = HEIGHT) -> np.ndarray:
    """Frames of at most `height` pixels, uint8, (frames, height, width, 3); every pixel of the originals counts."""
    if frames.shape[1] <= height:
        return frames
    return resized(frames, height, max(round(frames.shape[2] * height / frames.shape[1]), 1))


def resized(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Frames of another size, uint8, (frames, height, width, 3)."""
    images = (Image.fromarray(frame).resize((width, height), Image.Resampling.BOX) for frame in frames)
    return np.stack([np.asarray(image) for image in images])


def luma(frames: np.ndarray) -> np.ndarray:
    """Brightness (BT.601), float32, (frames, height, width), 0 to 255."""
    return frames.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)


def flows(frames: np.ndarray) -> np.ndarray:
    """Optical flow from each frame to the next one, float32, (frames - 1, height, width, 2), in pixels of the small
    version.
    """
    grey = luma(small(frames)).round().astype(np.uint8)
    found = [optical_flow(before, after) for before, after in pairwise(grey)]
    return np.stack(found) if found else np.zeros((0, *grey.shape[1:], 2), np.float32)
