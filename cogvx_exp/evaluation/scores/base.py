"""Interface of scores. A score is a function of a video's frames, named by `validation.scores` or `generate.scores`."""

import inspect
import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from cogvx_exp.config.imported import check_arguments, found
from cogvx_exp.config.rules.scores import missing_package
from cogvx_exp.config.schema import Score as Settings
from cogvx_exp.config.schema.section import Imported
from cogvx_exp.console.progress import console
from cogvx_exp.core.errors import UserError
from cogvx_exp.evaluation.scores.video import INPUTS, ScoredVideo

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Score:
    """A score that is ready to be computed."""

    function: Callable[..., float]
    """Called with the frames and the inputs."""
    asks: tuple[str, ...] = ()
    """Names of the inputs: attributes of `ScoredVideo`."""

    def __call__(self, video: ScoredVideo) -> float:
        """The score of a video."""
        return float(self.function(video.frames, **{name: getattr(video, name) for name in self.asks}))


def build_scores(
    settings: Mapping[str, Settings],
    setting: str,
    absent: Mapping[str, str] | None = None,
    noted: Collection[str] = (),
) -> dict[str, Score]:
    """The scores by name.

    A function is called with the frames. A class is built with the `kwargs` first, and its object is called. Either
    gets the further inputs for which it has a parameter (`INPUTS`).

    Args:
        settings: the scores.
        setting: validation.scores or generate.scores, for messages.
        absent: what videos lack, by the names of the inputs.
        noted: names of absent inputs that one may expect, so that a note is printed.

    Raises:
        UserError: one cannot be imported, does not accept its arguments, or needs what is absent.
    """
    built: dict[str, Score] = {}
    left_out: dict[str, list[str]] = {}
    for name, score in settings.items():
        if score.enabled is False:
            continue
        where = f"{setting}.{name}"
        function = found(score, where)
        asks = tuple(item for item in _asked(function) if item not in score.kwargs)
        lacking = next((item for item in absent or {} if item in asks), None)
        needs = (absent or {})[lacking] if lacking else missing_package(score)
        if not needs:
            built[name] = Score(_built(function, score, where, asks), asks)
        elif score.enabled is True:
            raise UserError(f"{where} needs {needs}; set {where}=false")
        else:
            logger.info("%s is left out: it needs %s", where, needs)
            if lacking in noted:
                left_out.setdefault(needs, []).append(name)
    for needs, names in left_out.items():
        console.print(f"Note: scores left out: {', '.join(names)}; they need {needs}")
    return built


def _asked(function: Callable[..., Any]) -> tuple[str, ...]:
    """The inputs for which a function, or the object that a class builds, has a parameter."""
    called = function.__call__ if inspect.isclass(function) else function
    try:
        parameters = inspect.signature(called).parameters
    except ValueError:  # functions in C may have no signature
        return ()
    return tuple(name for name in INPUTS if name in parameters)


def _built(function: Callable[..., Any], settings: Settings, where: str, asks: tuple[str, ...]) -> Callable[..., float]:
    if not inspect.isclass(function):
        check_arguments(function, settings, where, "frames", asked=asks)
        return partial(function, **settings.kwargs)
    check_arguments(function, settings, where)
    try:
        scorer: Any = function(**settings.kwargs)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if not callable(scorer):
        raise UserError(f"{where}: {settings.target} is a class without __call__(self, frames)")
    check_arguments(scorer, Imported(target=settings.target), where, "frames", asked=asks)
    return scorer


def score_video(scores: Mapping[str, Score], video: ScoredVideo) -> dict[str, float]:
    """The scores of a video, without those that failed or are not finite; these are reported."""
    # Read-only: a score that works in place must not change the frames of the next one.
    video = replace(video, frames=video.frames.view())
    video.frames.flags.writeable = False
    values: dict[str, float] = {}
    for name, score in scores.items():
        # Whatever a score raises, it must not end a run that has trained for hours.
        try:
            value = score(video)
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
