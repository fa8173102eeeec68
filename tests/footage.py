"""Videos made of known scenes: textures that move, and what footage has besides."""

import json
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cogvx_exp.media.errors import ClipError
from tests.numbered import FFMPEG

HEIGHT, WIDTH, RATE = 96, 160, 25


def scene(seed: int, frames: int, speed: int = 2, contrast: float = 1.0) -> np.ndarray:
    """A random texture of one tint that moves sideways: uint8, (frames, height, width, 3)."""
    random = np.random.default_rng(seed)
    blocks = random.integers(40, 220, (12, 60, 3)) * random.uniform(0.4, 1.15, 3)
    mean = blocks.mean()
    blocks = (mean + (blocks - mean) * contrast).clip(0, 255).astype(np.uint8)
    wide = np.asarray(Image.fromarray(blocks).resize((WIDTH * 4, HEIGHT), Image.Resampling.BICUBIC))
    places = (np.arange(frames) * speed) % (WIDTH * 3)
    return np.stack([wide[:, place : place + WIDTH] for place in places])


def black(frames: int) -> np.ndarray:
    return np.zeros((frames, HEIGHT, WIDTH, 3), np.uint8)


def with_bars(frames: np.ndarray, top: int, left: int) -> np.ndarray:
    """The frames with black bars above and below, left and right."""
    barred = np.zeros_like(frames)
    inside = np.s_[:, top : HEIGHT - top, left : WIDTH - left]
    barred[inside] = frames[inside]
    return barred


def film(path: Path, *scenes: np.ndarray, options: tuple[str, ...] = ("-crf", "8", "-g", "50")) -> Path:
    """Encodes scenes one after another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = np.concatenate(scenes)
    size = f"{frames.shape[2]}x{frames.shape[1]}"
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", str(RATE), "-i", "-")
    command = [FFMPEG, "-y", "-v", "error", *raw, "-c:v", "libx264", "-pix_fmt", "yuv420p", *options, str(path)]
    subprocess.run(command, input=frames.tobytes(), check=True)
    return path


def rows(manifest: Path) -> list[dict]:
    return [json.loads(line) for line in manifest.read_text().splitlines()]


def frame_ranges(manifest: Path) -> Iterator[tuple[int, int]]:
    """First frame, and the frame after the last, of each clip."""
    return ((round(row["start"] * RATE), round(row["end"] * RATE)) for row in rows(manifest))


class PoolHere:
    """A DecodingPool that works in this process, which saves the time to start others."""

    given: tuple[object, ...] = ()
    """Workers, time limit and its setting, of the last one."""

    def __init__(self, *given: object):
        PoolHere.given = given

    def __enter__(self) -> "PoolHere":
        return self

    def __exit__(self, *_: object) -> None: ...

    def map(self, function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        for task in tasks:
            try:
                yield function(*task)
            except ClipError as error:
                yield error
