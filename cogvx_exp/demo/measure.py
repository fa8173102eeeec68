"""Classifies a video of moving shapes by its pixels alone, without models."""

import colorsys
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from cogvx_exp.demo.scenes import BACKGROUNDS, COLOURS, DIRECTIONS, SHAPES, Scene, outline_of

COLOURED = 0.35
"""Minimum saturation times brightness (0 to 1) of pixels of a coloured shape."""
MOVED = 0.12
"""Minimum movement of a shape, in frame heights or widths."""
TEMPLATE = 16
"""Side length in pixels of the templates that masks are compared with."""
EDGES = 0.05
"""Fraction of a frame's pixels that counts as its edges."""


@dataclass(frozen=True)
class Seen:
    """The contents of a video; None for parts that cannot be recognized."""

    colour: str | None
    shape: str | None
    direction: str | None
    background: str
    style: str

    def follows(self, scene: Scene) -> dict[str, bool]:
        """Whether each part of a scene matches."""
        names = ("colour", "shape", "direction", "background", "style")
        return {name: getattr(self, name) == getattr(scene, name) for name in names}


def look_at(frames: np.ndarray) -> Seen:
    """Classifies frames (uint8, (frames, height, width, 3))."""
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


def middles(frames: np.ndarray) -> np.ndarray | None:
    """The shape's centre in each frame, x and y in frame widths and heights, (frames, 2); None where one has none."""
    masks = [_shape_mask(frame) for frame in frames]
    if not all(mask.any() for mask in masks):
        return None
    height, width = masks[0].shape
    return np.array([np.argwhere(mask).mean(axis=0)[::-1] / (width, height) for mask in masks])


def sharpness(frames: np.ndarray) -> float:
    """Mean step between neighbouring pixels at the edges, 0 to 1; blurred edges are spread over several pixels."""
    pixels = frames.astype(float) / 255
    across = np.abs(np.diff(pixels, axis=1))[:, :, :-1]
    along = np.abs(np.diff(pixels, axis=2))[:, :-1]
    steps = np.sort(np.maximum(across, along).max(axis=-1).reshape(len(frames), -1), axis=1)
    return float(steps[:, -max(round(EDGES * steps.shape[1]), 1) :].mean())


def _shape_mask(frame: np.ndarray) -> np.ndarray:
    """Pixels that differ from the frame's border, which is mostly background."""
    pixels = frame.astype(float)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    # The median of the border: a shape that touches the edge does not move it.
    return np.abs(pixels - np.median(border, axis=0)).max(axis=2) > 50


def _saturation(frames: np.ndarray) -> np.ndarray:
    """Saturation times brightness, 0 to 1: high for vivid colours, low for dark or pale ones."""
    pixels = frames.astype(float) / 255
    return pixels.max(axis=-1) - pixels.min(axis=-1)


def _colour(pixels: np.ndarray) -> str | None:
    """The colour name of most vivid pixels, by hue."""
    vivid = pixels[_saturation(pixels) > COLOURED]
    if len(vivid) < 0.2 * len(pixels):
        return None
    # By hue, since generated colours vary in brightness more than in hue.
    hue = _hue(np.median(vivid, axis=0))
    return min(COLOURS, key=lambda name: min(abs(hue - _hue(np.array(COLOURS[name])) + turn) for turn in (-1, 0, 1)))


def _hue(pixel: np.ndarray) -> float:
    red, green, blue = (float(value) / 255 for value in pixel)
    return colorsys.rgb_to_hsv(red, green, blue)[0]


def _shape(mask: np.ndarray) -> str:
    """The shape whose template overlaps most with a mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    # Cut to its bounding box, so that size and place do not matter.
    cut = Image.fromarray(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    scaled = np.asarray(cut.resize((TEMPLATE, TEMPLATE), Image.Resampling.NEAREST))
    return max(TEMPLATES, key=lambda name: (scaled & TEMPLATES[name]).sum() / (scaled | TEMPLATES[name]).sum())


def _template(shape: str) -> np.ndarray:
    image = Image.new("1", (TEMPLATE, TEMPLATE))
    ImageDraw.Draw(image).polygon(outline_of(shape, (TEMPLATE / 2 - 0.5,) * 2, TEMPLATE / 2), fill=1)
    return np.asarray(image)


TEMPLATES = {shape: _template(shape) for shape in SHAPES}


def _direction(masks: list[np.ndarray]) -> str | None:
    """The direction in which the shape's centre moves from the first third of the video to the last."""
    third = max(len(masks) // 3, 1)
    # Thirds rather than single frames: one bad frame must not decide.
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
    """sketch: dark lines on bright paper, without colour."""
    coloured = (_saturation(frames) > COLOURED).mean()
    brightness = frames.mean(axis=-1)
    dark, bright = (brightness < 100).mean(), (brightness > 190).mean()
    return "sketch" if coloured < 0.01 and 0.03 < dark < 0.4 and bright > 0.5 else "plain"


def _most(names: Iterable[str | None]) -> str | None:
    counted = list(names)
    return max(counted, key=counted.count)
