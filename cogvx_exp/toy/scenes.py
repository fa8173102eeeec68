"""The world: coloured shapes that move over a background, each scene with its caption, drawn by code."""

import itertools
import math
import random
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 190, 70),
    "blue": (50, 80, 230),
    "yellow": (240, 210, 50),
    "purple": (160, 50, 200),
}
BACKGROUNDS = {"black": (10, 10, 10), "white": (245, 245, 245), "grey": (120, 120, 120)}
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "diagonally": (0.8, 0.8)}
SHAPES = ("circle", "square", "triangle", "cross")
STYLES = ("plain", "sketch")

PAPER, INK = (235, 235, 235), (15, 15, 15)
"""What the style `sketch` draws on and with, whatever the caption's colours are."""
STROKE = 0.1
"""Width of a sketch's line, in heights of the picture."""
TRAVEL = 0.5
"""How far a shape moves during a clip, in heights and widths of the picture."""
SUPERSAMPLING = 4
"""Frames are drawn this much larger, then reduced, for smooth edges."""


@dataclass(frozen=True)
class Scene:
    """One clip of the world."""

    colour: str
    shape: str
    direction: str
    background: str
    style: str = "plain"
    radius: float = 0.24
    """Half the size of the shape, in heights of the picture."""
    drift: float = 0.0
    """How far the path lies beside the middle, in heights or widths of the picture."""

    @property
    def caption(self) -> str:
        """What a caption says about it. A style is not said: that is what a trigger word is for."""
        return f"a {self.colour} {self.shape} moving {self.direction} on a {self.background} background"


def all_scenes() -> list[Scene]:
    """Every combination, in an order that is always the same."""
    return [
        Scene(colour, shape, direction, background, style)
        for style, colour, shape, direction, background in itertools.product(
            STYLES, COLOURS, SHAPES, DIRECTIONS, BACKGROUNDS
        )
    ]


def varied(scene: Scene, chance: random.Random) -> Scene:
    """The scene in another size and on another path."""
    return replace(scene, radius=chance.uniform(0.2, 0.28), drift=chance.uniform(-0.12, 0.12))


def draw_scene(scene: Scene, num_frames: int, height: int, width: int) -> np.ndarray:
    """Frames of the scene: uint8, (num_frames, height, width, 3)."""
    step_x, step_y = DIRECTIONS[scene.direction]
    frames = []
    for index in range(num_frames):
        along = TRAVEL * (index / max(num_frames - 1, 1) - 0.5)
        across = (scene.drift * abs(step_y), scene.drift * abs(step_x))
        if scene.direction == "diagonally":
            across = (scene.drift / 2, -scene.drift / 2)
        centre = (width * (0.5 + step_x * along + across[0]), height * (0.5 + step_y * along + across[1]))
        frames.append(_draw_frame(scene, centre, height, width))
    return np.stack(frames)


def outline_of(shape: str, centre: tuple[float, float], radius: float) -> list[tuple[float, float]]:
    """Corners of a shape; a circle has very many."""
    x, y = centre
    corners: list[tuple[float, float]]
    if shape == "square":
        corners = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    elif shape == "triangle":
        corners = [(0, -1), (1, 1), (-1, 1)]
    elif shape == "cross":
        arm = 0.36
        quarter = [(-arm, -1), (arm, -1), (arm, -arm)]
        corners = [_turned(corner, turns) for turns in range(4) for corner in quarter]
    else:
        corners = [(math.cos(angle), math.sin(angle)) for angle in np.linspace(0, 2 * math.pi, 48, endpoint=False)]
    return [(x + radius * a, y + radius * b) for a, b in corners]


def _turned(corner: tuple[float, float], quarter_turns: int) -> tuple[float, float]:
    a, b = corner
    for _ in range(quarter_turns):
        a, b = -b, a
    return a, b


def _draw_frame(scene: Scene, centre: tuple[float, float], height: int, width: int) -> np.ndarray:
    scale = SUPERSAMPLING
    sketch = scene.style == "sketch"
    image = Image.new("RGB", (width * scale, height * scale), PAPER if sketch else BACKGROUNDS[scene.background])
    draw = ImageDraw.Draw(image)
    corners = outline_of(scene.shape, (centre[0] * scale, centre[1] * scale), scene.radius * height * scale)
    if sketch:
        stroke = round(STROKE * height * scale)
        draw.line([*corners, *corners[:2]], fill=INK, width=stroke, joint="curve")
    else:
        draw.polygon(corners, fill=COLOURS[scene.colour])
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
