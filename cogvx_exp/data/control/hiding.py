"""Conditions that hide a part of the clip: hidden pixels are mid-grey, zero for the VAE.

Without a mask beside it, a black frame would look the same hidden or shown, and the VAE blurs a jump from black more.
"""

import zlib

import numpy as np
from PIL import Image, ImageDraw

FRAMES_PER_LATENT = 4
"""The VAE's temporal compression."""
HIDDEN = 128
"""Value of hidden pixels."""
BOXES, STROKES = 3, 3
"""At most as many boxes and strokes per mask."""


def first_last(frames: np.ndarray) -> np.ndarray:
    """Only the first and the last frame, which is held for the frames of the last latent.

    The VAE compresses four frames into a latent: of a frame shown alone among hidden ones, little would remain.
    """
    shown = np.full_like(frames, HIDDEN)
    shown[-FRAMES_PER_LATENT:] = frames[-1]
    shown[0] = frames[0]
    return shown


def prefix(frames: np.ndarray, count: int) -> np.ndarray:
    """Only the first `count` frames."""
    shown = np.full_like(frames, HIDDEN)
    shown[:count] = frames[:count]
    return shown


def masked(frames: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The frames without what is white in the mask video, uint8, of the same shape."""
    return np.where(mask > 127, HIDDEN, frames).astype(np.uint8)


def randomly_masked(frames: np.ndarray, number: int) -> np.ndarray:
    """The frames without random boxes and brush strokes, which move evenly over the clip.

    The mask depends on the number and on the first frame, so clips have different ones, and every run the same.
    """
    random = np.random.default_rng([number, zlib.crc32(frames[0].tobytes())])
    count, height, width = frames.shape[:3]
    size = np.array([width, height])
    boxes = [(random.uniform(0, 1, 2), random.uniform(0.15, 0.5, 2)) for _ in range(random.integers(0, BOXES + 1))]
    strokes = [
        (random.uniform(0, 1, (random.integers(3, 7), 2)), random.uniform(0.04, 0.12))
        for _ in range(random.integers(0 if boxes else 1, STROKES + 1))
    ]
    moves = random.uniform(-0.3, 0.3, (len(boxes) + len(strokes), 2))
    shown = frames.copy()
    for index in range(count):
        image = Image.new("1", (width, height))
        draw = ImageDraw.Draw(image)
        shift = moves * (index / max(count - 1, 1))
        for (center, extent), moved in zip(boxes, shift[: len(boxes)], strict=True):
            corners = [(center + moved + side * extent / 2) * size for side in (-1, 1)]
            draw.rectangle([*corners[0], *corners[1]], fill=1)
        for (points, thickness), moved in zip(strokes, shift[len(boxes) :], strict=True):
            path = [tuple(point) for point in (points + moved) * size]
            draw.line(path, fill=1, width=max(round(thickness * height), 1), joint="curve")
        shown[index][np.asarray(image)] = HIDDEN
    return shown
