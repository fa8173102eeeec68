"""A dataset with control videos: boxes of random colours that move, and their negatives."""

from pathlib import Path

import numpy as np

from cogvx_exp.media.video import write_video

FRAMES, HEIGHT, WIDTH = 17, 32, 48


def boxes(number: int, frames: int = FRAMES) -> np.ndarray:
    """A clip: uint8, (frames, HEIGHT, WIDTH, 3)."""
    clip = np.zeros((frames, HEIGHT, WIDTH, 3), np.uint8)
    colour = np.random.default_rng(number).integers(60, 255, 3)
    for index in range(frames):
        left = 2 * number + round(18 * index / frames)
        clip[index, 6 + number : 20 + number, left : left + 12] = colour
    return clip


def write_dataset(root: Path, clips: int = 4) -> Path:
    """Writes it as data=files."""
    for number in range(clips):
        write_video(root / f"videos/{number}.mp4", boxes(number), 8)
        write_video(root / f"controls/{number}.mp4", 255 - boxes(number), 8)
    for name, line in {"prompt": "box {}", "videos": "videos/{}.mp4", "controls": "controls/{}.mp4"}.items():
        (root / f"{name}.txt").write_text("".join(f"{line.format(number)}\n" for number in range(clips)))
    return root
