"""Videos that are degraded on purpose, in steps, and what each score must do: rise or fall with every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from cogvx_exp.data.control.recipes import Recipe
from cogvx_exp.evaluation.scores.base import Score, mean_scores, score_video
from cogvx_exp.evaluation.scores.training_clips import TrainingClips, statistics, thumbnails, training_clips
from cogvx_exp.evaluation.scores.video import Condition, ScoredVideo

FRAMES, HEIGHT, WIDTH = 17, 96, 144


@dataclass(frozen=True)
class Degradation:
    """One way of spoiling a video."""

    name: str
    steps: list[float]
    """How strong it is; the first changes nothing."""
    apply: Callable[[np.ndarray, float], np.ndarray]
    rises: tuple[str, ...] = ()
    """Scores that must rise with every step."""
    falls: tuple[str, ...] = ()
    """Scores that must fall with every step."""


def scene(seed: int) -> np.ndarray:
    """A disc that crosses a panned, textured background: uint8, (FRAMES, HEIGHT, WIDTH, 3)."""
    random = np.random.default_rng(seed)
    size = (WIDTH + 2 * FRAMES, HEIGHT + 2 * FRAMES)
    texture = np.asarray(Image.fromarray(random.integers(0, 256, (16, 24, 3), dtype=np.uint8)).resize(size))
    grain = Image.fromarray(random.integers(0, 256, (size[1] // 2, size[0] // 2, 3), dtype=np.uint8)).resize(size)
    texture = 0.75 * texture + 0.25 * np.asarray(grain)
    colour, speed = random.integers(0, 256, 3), random.choice([-1, 1], 2)
    rows, columns = np.indices((HEIGHT, WIDTH))
    frames = []
    for index in range(FRAMES):
        top, left = FRAMES + speed * index
        frame = texture[top : top + HEIGHT, left : left + WIDTH].copy()
        middle = np.array([0.5, 0.3]) * (HEIGHT, WIDTH) + 2.5 * speed * index
        frame[np.hypot(rows - middle[0], columns - middle[1]) < HEIGHT / 6] = colour
        frames.append(frame)
    return np.stack(frames).round().astype(np.uint8)


def blurred(frames: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur; `sigma` in pixels."""
    images = (Image.fromarray(frame).filter(ImageFilter.GaussianBlur(sigma)) for frame in frames)
    return np.stack([np.asarray(image) for image in images])


def frozen(frames: np.ndarray, share: float) -> np.ndarray:
    """The last part of the video stands still."""
    last = round((len(frames) - 1) * (1 - share))
    return frames[[min(index, last) for index in range(len(frames))]]


def flickering(frames: np.ndarray, amount: float) -> np.ndarray:
    """Every other frame is brighter, of 255."""
    return _clipped(frames + amount * (np.arange(len(frames)) % 2)[:, None, None, None])


def colour_shifted(frames: np.ndarray, amount: float) -> np.ndarray:
    """Red rises and blue falls over the video, by up to `amount` of 255."""
    rising = np.linspace(0, amount, len(frames))[:, None, None, None]
    return _clipped(frames + rising * np.array([1, 0, -1]))


def shuffled(frames: np.ndarray, distance: float) -> np.ndarray:
    """Each frame is swapped with one that is `distance` frames later."""
    order, step = list(range(len(frames))), int(distance)
    for start in range(0, len(order) - step, 2 * step) if step else ():
        for index in range(start, min(start + step, len(order) - step)):
            order[index], order[index + step] = order[index + step], order[index]
    return frames[order]


def moved(frames: np.ndarray, pixels: float) -> np.ndarray:
    """The whole video is moved to the right."""
    return np.roll(frames, int(pixels), axis=2)


def blended(frames: np.ndarray, share: float) -> np.ndarray:
    """The video becomes one of the training clips."""
    return _clipped((1 - share) * frames + share * scene(CLIPS[0]))


CLIPS = list(range(10, 26))
"""Seeds of the training clips."""
NEW = [0, 2]
"""Seeds of the videos."""
DEGRADATIONS = [
    Degradation("blurred", [0, 0.5, 1, 2, 4], blurred, falls=("sharpness", "first_frame", "likeness")),
    Degradation("frozen", [0, 0.25, 0.5, 0.75, 1], frozen, rises=("static",), falls=("motion", "likeness")),
    Degradation("flickering", [0, 5, 10, 20, 40], flickering, rises=("flicker",), falls=("likeness",)),
    Degradation("colours shifted", [0, 10, 20, 40, 80], colour_shifted, rises=("colour_drift",), falls=("likeness",)),
    Degradation("frames shuffled", [0, 1, 2, 4, 8], shuffled, rises=("flicker",), falls=("copying",)),
    Degradation("moved aside", [0, 2, 4, 8, 16], moved, falls=("condition", "first_frame")),
    Degradation("blended with a training clip", [0, 0.25, 0.5, 0.75, 1], blended, rises=("copying",)),
]


def known_clips() -> TrainingClips:
    """The training clips."""
    return training_clips([(statistics(clip), thumbnails(clip)) for clip in map(scene, CLIPS)], mirrored=False)


def measured(degradation: Degradation, scores: Mapping[str, Score], clips: TrainingClips) -> list[dict[str, float]]:
    """The scores after each step, the means over two videos as in a validation."""
    # Of training clips where they must become less of a copy, otherwise of new ones.
    seeds = CLIPS[:2] if "copying" in degradation.falls else NEW
    return [
        mean_scores(score_video(scores, _degraded(degradation, step, seed, clips)) for seed in seeds)
        for step in degradation.steps
    ]


def _degraded(degradation: Degradation, step: float, seed: int, clips: TrainingClips) -> ScoredVideo:
    """A spoiled video that should have shown what the good one shows."""
    good = scene(seed)
    condition = Condition(Recipe("gray").apply(good), Recipe("gray").apply)
    return ScoredVideo(degradation.apply(good, step), "", 8.0, good[0], condition, clips)


def _clipped(frames: np.ndarray) -> np.ndarray:
    return frames.clip(0, 255).round().astype(np.uint8)
