"""Scenes of coloured shapes that move over a background, with captions, rendered by code."""

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
    "cyan": (40, 200, 220),
    "pink": (240, 110, 180),
}
WHITE = (255, 255, 255)
"""Colour of a silhouette, which is no colour of a scene."""
BACKGROUNDS = {"black": (10, 10, 10), "white": (245, 245, 245), "grey": (120, 120, 120)}
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "diagonally": (0.8, 0.8)}
SHAPES = ("circle", "square", "triangle", "cross")
STYLES = ("plain", "sketch")

PAPER, INK = (235, 235, 235), (15, 15, 15)
"""Paper and ink of the style `sketch`, whatever colours the caption names."""
STROKE = 0.1
"""Line width of a sketch, in frame heights."""
TRAVEL = 0.36
"""Distance a shape moves during a clip, in frame heights and widths."""
SUPERSAMPLING = 4
"""Factor by which frames are rendered larger and then reduced, for smooth edges."""


@dataclass(frozen=True)
class Scene:
    """The contents of one clip."""

    colour: str
    shape: str
    direction: str
    background: str
    style: str = "plain"
    radius: float = 0.3
    """Half the size of the shape, in frame heights."""
    drift: float = 0.0
    """Offset of the path from the centre, in frame heights or widths."""

    @property
    def caption(self) -> str:
        """The caption of the scene. It does not mention the style, which a trigger word stands for."""
        return f"a {self.colour} {self.shape} moving {self.direction} on a {self.background} background"


def all_scenes() -> list[Scene]:
    """All combinations, in a fixed order."""
    return [
        Scene(colour, shape, direction, background, style)
        for style, colour, shape, direction, background in itertools.product(
            STYLES, COLOURS, SHAPES, DIRECTIONS, BACKGROUNDS
        )
    ]


def varied(scene: Scene, chance: random.Random) -> Scene:
    """The scene with a random size and path."""
    return replace(scene, radius=chance.uniform(0.27, 0.33), drift=chance.uniform(-0.1, 0.1))


def draw_scene(scene: Scene, num_frames: int, height: int, width: int) -> np.ndarray:
    """Renders the scene: uint8, (num_frames, height, width, 3)."""
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
    """Corners of a shape; a circle has many."""
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
        draw.polygon(corners, fill=COLOURS.get(scene.colour, WHITE))
    # Drawn larger and reduced: at 32 pixels, hard edges would look like other shapes.
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
