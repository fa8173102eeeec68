"""Interface of scores. A score is a function of a video's frames, named by `validation.scores` or `generate.scores`."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from cogvx_exp.config.imported import imported
from cogvx_exp.config.schema.section import Imported
from cogvx_exp.console.progress import console

logger = logging.getLogger(__name__)

Score = Callable[[np.ndarray], float]
"""From frames, uint8, (frames, height, width, 3), to a number."""


def build_scores(settings: Mapping[str, Imported], setting: str) -> dict[str, Score]:
    """The scores by name. `setting`: validation.scores or generate.scores, for messages.

    Raises:
        UserError: one cannot be imported, or does not accept its arguments.
    """
    return {name: imported(score, f"{setting}.{name}", "frames") for name, score in settings.items()}


def score_video(scores: Mapping[str, Score], frames: np.ndarray) -> dict[str, float]:
    """The scores of a video's frames, without those that failed or are not finite; these are reported."""
    # Read-only: a score that works in place must not change the frames of the next one.
    frames = frames.view()
    frames.flags.writeable = False
    values: dict[str, float] = {}
    for name, score in scores.items():
        # Whatever a score raises, it must not end a run that has trained for hours.
        try:
            value = float(score(frames))
        except Exception as error:
            logger.debug("score %s", name, exc_info=True)
            console.warn(f"Note: the score {name} failed: {type(error).__name__}: {error}")
            continue
        if math.isfinite(value):
            values[name] = value
        else:
            console.warn(f"Note: the score {name} is {value} and is left out")
    return values


def mean_scores(videos: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each score over the videos that have it."""
    values: dict[str, list[float]] = {}
    for scores in videos:
        for name, value in scores.items():
            values.setdefault(name, []).append(value)
    return {name: sum(numbers) / len(numbers) for name, numbers in values.items()}
