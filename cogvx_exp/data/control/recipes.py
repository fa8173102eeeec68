"""Control videos computed from a clip's frames (`data.control=NAME`).

A recipe is a function of frames, uint8 (frames, height, width, 3), that returns frames of the same shape. Its name and
default arguments are in conf/control/NAME.yaml. Recipes run in the decoding workers, on the frames that the clip itself
uses: same crop, same flip.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from cogvx_exp.config.choices import composed, names_of
from cogvx_exp.core.errors import UserError
from cogvx_exp.data.control.hiding import first_last, prefix, randomly_masked

COMPUTED = re.compile(r"(?P<name>[A-Za-z_][\w.]*)(?P<kwargs>(?: \w+=[-+.\deE]+)*) of (?P<path>.+)")
"""`canny low=50 of VIDEO`."""

HIDDEN_BY = re.compile(r"(?P<clip>.+) hidden by (?P<mask>.+)")
"""See `hidden_by`."""

Function = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Recipe:
    """A named function of frames and its arguments."""

    name: str
    kwargs: tuple[tuple[str, Any], ...] = ()
    """Sorted by name."""

    def __str__(self) -> str:
        """The recipe as it is written before ` of VIDEO`."""
        return " ".join([self.name, *(f"{key}={value:g}" for key, value in self.kwargs)])

    def function(self) -> Function:
        """The function.

        Raises:
            UserError: there is none of this name, or it does not take these arguments.
        """
        function, defaults = _find(self.name)
        unknown = sorted(set(dict(self.kwargs)) - set(defaults)) if defaults is not None else []
        if unknown:
            takes = f"it takes {', '.join(defaults or {})}" if defaults else "it takes none"
            raise UserError(f"data.control_kwargs: {self.name} has no argument {', '.join(unknown)}; {takes}")
        return partial(function, **(defaults or {}) | dict(self.kwargs))

    def made_from(self) -> dict[str, Any]:
        """What determines its result besides the frames, for cache keys."""
        return {"recipe": self.name, "arguments": dict(self.function().keywords)}  # type: ignore[attr-defined]

    def apply(self, frames: np.ndarray) -> np.ndarray:
        """The control video of a clip.

        Raises:
            UserError: the recipe returns something else.
        """
        made = self.function()(frames)
        if made.shape != frames.shape or made.dtype != np.uint8:
            raise UserError(f"data.control={self.name} returned {made.dtype}{made.shape}, not uint8{frames.shape}")
        return made


def recipe_of(name: str, kwargs: dict[str, Any]) -> Recipe:
    """The recipe of these settings."""
    return Recipe(name, tuple(sorted(kwargs.items())))


OF_CLIPS: dict[str, Function] = {
    "video": lambda frames: frames,
    "first_last": first_last,
    "prefix": prefix,
    "mask": randomly_masked,
}
"""Recipes of conditions other than a control video, as written before ` of VIDEO`; `video` changes nothing."""


def hidden_by(clip: str, mask: str) -> str:
    """The name of a clip without what a mask video covers."""
    return f"{clip} hidden by {mask}"


def parse_control(text: str) -> tuple[Recipe | None, str]:
    """A control video's recipe, if it is computed, and the path of its source: `VIDEO` or `RECIPE of VIDEO`."""
    found = COMPUTED.fullmatch(text.strip())
    names = [*names_of("control"), *OF_CLIPS]
    if not found or ("." not in found["name"] and found["name"] not in names):
        return None, text.strip()
    pairs = (pair.split("=") for pair in found["kwargs"].split())
    return recipe_of(found["name"], {key: _number(value) for key, value in pairs}), found["path"]


def canny(frames: np.ndarray, low: float, high: float) -> np.ndarray:
    """White edges on black (Canny)."""
    return np.stack([np.repeat(_cv2().Canny(frame, low, high)[..., None], 3, axis=2) for frame in frames])


def gray(frames: np.ndarray) -> np.ndarray:
    """Without colour (BT.601)."""
    grey = (frames @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=3)


def blur(frames: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur; `sigma` is a share of the height."""
    blurred = ImageFilter.GaussianBlur(sigma * frames.shape[1])
    return np.stack([np.asarray(Image.fromarray(frame).filter(blurred)) for frame in frames])


def downscale(frames: np.ndarray, factor: float) -> np.ndarray:
    """A small version, enlarged again bilinearly."""
    height, width = frames.shape[1:3]
    small = max(round(width / factor), 1), max(round(height / factor), 1)
    shrunk = (Image.fromarray(frame).resize(small, Image.Resampling.BOX) for frame in frames)
    return np.stack([np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)) for image in shrunk])


def _number(text: str) -> float:
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _find(name: str) -> tuple[Function, dict[str, Any] | None]:
    """A function and its default arguments; None if they are not known."""
    if name in OF_CLIPS:
        return OF_CLIPS[name], None
    if "." not in name:
        if name not in names_of("control"):
            known = ", ".join(["files", "masks", *names_of("control")])
            raise UserError(f"data.control={name} is none of {known}, and no import path (module.function)")
        values = composed("control", name)
        return _imported(values["function"], name), values["kwargs"]
    return _imported(name, name), None


def _imported(path: str, name: str) -> Function:
    module, _, attribute = path.rpartition(".")
    try:
        function: Function = getattr(import_module(module), attribute)
        return function
    except (ImportError, AttributeError) as error:
        raise UserError(f"data.control={name} cannot be imported: {error}") from None


def _cv2() -> Any:
    try:
        import cv2
    except ImportError:
        raise UserError("data.control=canny needs OpenCV: pip install opencv-python-headless") from None
    cv2.setNumThreads(1)  # the workers already run in parallel
    return cv2
