"""Resizes frames to a bucket. Works on uint8 with Pillow, so decoding workers need no torch."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from cogvx_exp.data.buckets import Bucket


@dataclass(frozen=True, slots=True)
class ResizeSpec:
    """How a frame is resized to a bucket."""

    mode: str
    """center or random (scale to cover, crop), resize (stretch), pad (scale to fit, black borders)."""
    position: tuple[float, float] = (0.5, 0.5)
    """Position of the crop, vertical and horizontal: 0 is top left, 1 is bottom right."""
    flip: bool = False
    """Whether the frame is flipped horizontally."""


def fit_frame(frame: np.ndarray, bucket: Bucket, fit: ResizeSpec) -> np.ndarray:
    """A frame (uint8, (H, W, 3)) resized to the bucket: uint8, (height, width, 3)."""
    image, size = Image.fromarray(frame), (bucket.width, bucket.height)
    if fit.mode == "pad":
        image = ImageOps.pad(image, size, Image.Resampling.BILINEAR, color=(0, 0, 0))
    else:
        box = crop_box(image.height, image.width, bucket, fit) if fit.mode != "resize" else None
        if image.size != size or box:
            # Cropping and scaling at once, with a fractional box: the crop is not rounded to whole pixels first.
            # Pillow's filter covers all source pixels, so reducing does not alias.
            image = image.resize(size, Image.Resampling.BILINEAR, box=box)
    return np.asarray(ImageOps.mirror(image) if fit.flip else image)


def crop_box(height: int, width: int, bucket: Bucket, fit: ResizeSpec) -> tuple[float, float, float, float]:
    """The largest region of a frame with the bucket's aspect ratio: left, top, right, bottom, in pixels."""
    scale = min(height / bucket.height, width / bucket.width)
    crop_height, crop_width = bucket.height * scale, bucket.width * scale
    top, left = (height - crop_height) * fit.position[0], (width - crop_width) * fit.position[1]
    return left, top, left + crop_width, top + crop_height


def cropped_share(height: int, width: int, bucket: Bucket, mode: str) -> float:
    """Fraction of a frame's area that is cropped."""
    if mode not in ("center", "random"):
        return 0.0
    left, top, right, bottom = crop_box(height, width, bucket, ResizeSpec(mode))
    return 1 - (right - left) * (bottom - top) / (height * width)
