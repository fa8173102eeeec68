"""Videos side by side, with labels."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LABEL_HEIGHT = 16
"""Pixels."""


def side_by_side(videos: list[np.ndarray], labels: list[str]) -> np.ndarray:
    """Joins videos of one shape, uint8 (frames, height, width, 3), into one wide video with labels."""
    labelled = [
        np.concatenate([_label(text, video), video], axis=1) for text, video in zip(labels, videos, strict=True)
    ]
    return np.concatenate(labelled, axis=2)


def _label(text: str, video: np.ndarray) -> np.ndarray:
    """A strip with text for all frames of a video."""
    frames, _, width, _ = video.shape
    image = Image.new("RGB", (width, LABEL_HEIGHT), (24, 24, 24))
    font = ImageFont.load_default(size=11)
    ImageDraw.Draw(image).text((3, 1), text, fill=(235, 235, 235), font=font)
    return np.repeat(np.asarray(image)[None], frames, axis=0)
