"""Measures a clip. Runs in a worker process."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cogvx_exp.config.schema import Split
from cogvx_exp.footage.split.scan import CutDetector
from cogvx_exp.media.flow import optical_flow
from cogvx_exp.media.spacing import spread
from cogvx_exp.media.window import Window, WindowReader

VERSION = 1
"""Increase it when the scores of the same clip change."""
HEIGHT, SMALL = 480, 144
"""Heights in pixels at which frames are measured: sharpness and brightness, motion and cuts."""
SAMPLES = 8
"""Frames of which sharpness and brightness are measured, and pairs of frames of which motion is."""
PAIRS_PER_SECOND = 8.0
"""Motion is measured between frames this far apart in time."""
HASHED = (0.25, 0.5, 0.75)
"""Frames that are hashed, as fractions of the clip; 64 bits each."""


@dataclass(frozen=True)
class Scores:
    """What is measured of a clip; see the settings of `filter`."""

    sharpness: float
    exposure: float
    motion: float
    cuts: int


def score_clip(path: str, window: Window, split: Split) -> dict[str, Any]:
    """The scores of a clip, and its perceptual hash (hexadecimal) as `hash`.

    Raises:
        ClipError: it cannot be decoded.
    """
    import cv2

    cv2.setNumThreads(1)  # clips are scored in parallel processes already
    reader = WindowReader(path, window)
    count = len(reader.starts)
    step = max(round(count / reader.duration / PAIRS_PER_SECOND), 1)
    sampled = set(spread(count, SAMPLES))
    firsts = set(spread(max(count - step, 0), SAMPLES))
    hashed = [round(share * (count - 1)) for share in HASHED]
    cuts, sharpness, exposure, hashes, small = CutDetector(split, count / reader.duration), [], [], {}, {}
    for index, frame in enumerate(reader.frames(range(count), HEIGHT)):
        little = _scaled(frame, SMALL)
        cuts.add(little)
        if index in firsts or index - step in firsts:
            small[index] = cv2.cvtColor(little, cv2.COLOR_RGB2GRAY)
        if index in sampled:
            grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
            sharpness.append(float(cv2.Laplacian(grey, cv2.CV_64F).var()))
            exposure.append(float(grey.mean()) / 255)
        if index in hashed:
            hashes[index] = _hash(little)
    scores = Scores(
        sharpness=round(float(np.median(sharpness)), 2),
        exposure=round(float(np.mean(exposure)), 4),
        motion=round(_motion(small, firsts, step, reader.starts), 3),
        cuts=len(cuts.found()),
    )
    return asdict(scores) | {"hash": "".join(hashes[index] for index in hashed)}


def _motion(grey: dict[int, np.ndarray], firsts: set[int], step: int, starts: np.ndarray) -> float:
    """Mean length of the optical flow, percent of the height per second; 0 for a clip of one frame."""
    speeds = []
    for first in sorted(firsts):
        before, after = grey[first], grey[first + step]
        length = float(np.linalg.norm(optical_flow(before, after), axis=2).mean())
        speeds.append(100 * length / before.shape[0] / float(starts[first + step] - starts[first]))
    return float(np.mean(speeds)) if speeds else 0.0


def _hash(frame: np.ndarray) -> str:
    import imagehash
    from PIL import Image

    return str(imagehash.phash(Image.fromarray(frame)))


def _scaled(frame: np.ndarray, most: int) -> np.ndarray:
    import cv2

    height, width = frame.shape[:2]
    if height <= most:
        return frame
    return np.asarray(cv2.resize(frame, (max(round(width * most / height), 1), most), interpolation=cv2.INTER_AREA))
