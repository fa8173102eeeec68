"""What a video of the world shows, from its pixels alone. Knows nothing of models."""

import colorsys
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from cogvx_exp.toy.scenes import BACKGROUNDS, COLOURS, DIRECTIONS, SHAPES, Scene, outline_of

COLOURED = 0.35
"""Saturation times brightness (0 to 1) from which a pixel is part of a coloured shape."""
MOVED = 0.12
"""How far a shape moves at least, in heights or widths of the picture."""
TEMPLATE = 16
"""Pixels on each side of the shapes that a mask is compared with."""


@dataclass(frozen=True)
class Seen:
    """What a video shows; None where it shows nothing of the kind."""

    colour: str | None
    shape: str | None
    direction: str | None
    background: str
    style: str

    def follows(self, scene: Scene) -> dict[str, bool]:
        """Whether each part of a scene is there."""
        names = ("colour", "shape", "direction", "background", "style")
        return {name: getattr(self, name) == getattr(scene, name) for name in names}


def look_at(frames: np.ndarray) -> Seen:
    """What frames (uint8, (frames, height, width, 3)) show."""
    masks = [_shape_mask(frame) for frame in frames]
    seen = [(frame, mask) for frame, mask in zip(frames, masks, strict=True) if mask.sum() >= 0.01 * mask.size]
    if not seen:
        return Seen(None, None, None, _background(frames, masks), _style(frames))
    return Seen(
        colour=_most(_colour(frame[mask]) for frame, mask in seen),
        shape=_most(_shape(mask) for _, mask in seen),
        direction=_direction([mask for mask in masks if mask.any()]),
        background=_background(frames, masks),
        style=_style(frames),
    )


def _shape_mask(frame: np.ndarray) -> np.ndarray:
    """Where the frame is not like its border, which is mostly background."""
    pixels = frame.astype(float)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return np.abs(pixels - np.median(border, axis=0)).max(axis=2) > 50


def _saturation(frames: np.ndarray) -> np.ndarray:
    """Saturation times brightness, 0 to 1: that of a vivid colour is high, that of a dark or pale one low."""
    pixels = frames.astype(float) / 255
    return pixels.max(axis=-1) - pixels.min(axis=-1)


def _colour(pixels: np.ndarray) -> str | None:
    """The name of the colour of most of the vivid pixels, by hue."""
    vivid = pixels[_saturation(pixels) > COLOURED]
    if len(vivid) < 0.2 * len(pixels):
        return None
    hue = _hue(np.median(vivid, axis=0))
    return min(COLOURS, key=lambda name: min(abs(hue - _hue(np.array(COLOURS[name])) + turn) for turn in (-1, 0, 1)))


def _hue(pixel: np.ndarray) -> float:
    red, green, blue = (float(value) / 255 for value in pixel)
    return colorsys.rgb_to_hsv(red, green, blue)[0]


def _shape(mask: np.ndarray) -> str:
    """The shape that a filled mask overlaps most with."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    cut = Image.fromarray(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    scaled = np.asarray(cut.resize((TEMPLATE, TEMPLATE), Image.Resampling.NEAREST))
    return max(TEMPLATES, key=lambda name: (scaled & TEMPLATES[name]).sum() / (scaled | TEMPLATES[name]).sum())


def _template(shape: str) -> np.ndarray:
    image = Image.new("1", (TEMPLATE, TEMPLATE))
    ImageDraw.Draw(image).polygon(outline_of(shape, (TEMPLATE / 2 - 0.5,) * 2, TEMPLATE / 2), fill=1)
    return np.asarray(image)


TEMPLATES = {shape: _template(shape) for shape in SHAPES}


def _direction(masks: list[np.ndarray]) -> str | None:
    """Where the middle of the shape goes from the first third of the video to the last."""
    third = max(len(masks) // 3, 1)
    first, last = _middle(masks[:third]), _middle(masks[-third:])
    height, width = masks[0].shape
    path = np.array([(last[0] - first[0]) / width, (last[1] - first[1]) / height])
    length = np.hypot(*path)
    if length < MOVED:
        return None
    return max(DIRECTIONS, key=lambda name: float(path @ DIRECTIONS[name]) / np.hypot(*DIRECTIONS[name]))


def _middle(masks: list[np.ndarray]) -> np.ndarray:
    return np.mean([np.argwhere(mask).mean(axis=0)[::-1] for mask in masks], axis=0)


def _background(frames: np.ndarray, masks: list[np.ndarray]) -> str:
    rest = np.concatenate([frame[~mask] for frame, mask in zip(frames, masks, strict=True)])
    middle = np.median(rest, axis=0)
    return min(BACKGROUNDS, key=lambda name: float(np.abs(middle - BACKGROUNDS[name]).sum()))


def _style(frames: np.ndarray) -> str:
    """sketch: dark lines on bright paper, and no colour."""
    coloured = (_saturation(frames) > COLOURED).mean()
    brightness = frames.mean(axis=-1)
    dark, bright = (brightness < 100).mean(), (brightness > 190).mean()
    return "sketch" if coloured < 0.01 and 0.03 < dark < 0.4 and bright > 0.5 else "plain"


def _most(names: Iterable[str | None]) -> str | None:
    counted = list(names)
    return max(counted, key=counted.count)
