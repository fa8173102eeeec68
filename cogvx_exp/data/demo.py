"""The demo dataset: short clips of coloured shapes that move, drawn by code."""

import itertools
import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from cogvx_exp.data.video import write_video
from cogvx_exp.files import write_text

COLOURS = {"red": (220, 40, 40), "green": (40, 190, 70), "blue": (50, 90, 230), "yellow": (240, 210, 50)}
BACKGROUNDS = {"black": (10, 10, 10), "white": (245, 245, 245), "grey": (120, 120, 120)}
SHAPES = ("circle", "square", "triangle")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}

NUM_FRAMES, HEIGHT, WIDTH, FPS = 17, 128, 192, 8
SUPERSAMPLING = 3
"""Frames are drawn this much larger, then reduced, for smooth edges."""


def make_demo(root: Path, clips: int) -> None:
    """Writes `clips` mp4 files with prompt.txt and videos.txt into `root`, if they are not there yet."""
    listing = root / "videos.txt"
    names = [f"videos/{index:03d}.mp4" for index in range(clips)]
    if listing.exists() and listing.read_text(encoding="utf-8").split() == names:
        return
    scenes = list(itertools.product(COLOURS, SHAPES, DIRECTIONS, BACKGROUNDS))
    random.Random(0).shuffle(scenes)
    captions = []
    for name, (colour, shape, direction, background) in zip(names, itertools.cycle(scenes), strict=False):
        captions.append(f"a {colour} {shape} moving {direction} on a {background} background")
        frames = draw_scene(colour, shape, direction, background)
        write_video(root / name, frames, FPS)
    write_text(root / "prompt.txt", "\n".join(captions) + "\n")
    write_text(listing, "\n".join(names) + "\n")


def draw_scene(colour: str, shape: str, direction: str, background: str) -> np.ndarray:
    """Frames of one moving shape: uint8, (frames, height, width, 3)."""
    step_x, step_y = DIRECTIONS[direction]
    frames = []
    for index in range(NUM_FRAMES):
        progress = index / (NUM_FRAMES - 1) - 0.5  # the shape crosses 60% of the frame
        centre = (WIDTH * (0.5 + 0.6 * step_x * progress), HEIGHT * (0.5 + 0.6 * step_y * progress))
        frames.append(_draw_frame(shape, centre, COLOURS[colour], BACKGROUNDS[background]))
    return np.stack(frames)


def _draw_frame(
    shape: str, centre: tuple[float, float], colour: tuple[int, int, int], background: tuple[int, int, int]
) -> np.ndarray:
    scale = SUPERSAMPLING
    image = Image.new("RGB", (WIDTH * scale, HEIGHT * scale), background)
    draw = ImageDraw.Draw(image)
    x, y, radius = centre[0] * scale, centre[1] * scale, HEIGHT * scale * 0.2
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        draw.ellipse(box, fill=colour)
    elif shape == "square":
        draw.rectangle(box, fill=colour)
    else:
        draw.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], fill=colour)
    return np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS))
