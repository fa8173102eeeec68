"""Rules about scores of videos, and what checkpoints and the jobs of a sweep are compared by."""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec

from cogvx_exp.config.issues import Issue
from cogvx_exp.config.schema import Score, TrainJob, Validation
from cogvx_exp.config.schema.section import SCORE

INSTALL = {"cv2": "OpenCV: pip install 'cogvx-exp[scores]'"}
"""Where packages come from."""


def goals(job: TrainJob) -> dict[str, str]:
    """The scores that checkpoints and the jobs of a sweep are compared by, by setting; without those by loss."""
    given = {"checkpoint.keep_best": job.checkpoint.keep_best, "sweep.objective": job.sweep.objective}
    return {
        name: goal.removeprefix(SCORE)
        for name, goal in given.items()
        if isinstance(goal, str) and goal.startswith(SCORE)
    }


def scores_of(job: TrainJob) -> dict[str, Score]:
    """The scores of a run's videos. What something is compared by must not be left out, even with `enabled: auto`."""
    if not isinstance(job.validation, Validation):
        return {}
    needed = set(goals(job).values())
    return {
        name: score.model_copy(update={"enabled": True}) if name in needed and score.enabled else score
        for name, score in job.validation.scores.items()
    }


def missing_package(score: Score) -> str | None:
    """What has to be installed for a score; None if nothing has."""
    if score.package is None or find_spec(score.package) is not None:
        return None
    return INSTALL.get(score.package, f"the package {score.package}")


def scores_are_possible(scores: Mapping[str, Score], setting: str) -> Iterator[Issue]:
    """Scores that are switched on but lack a package."""
    for name, score in scores.items():
        if score.enabled is True and (missing := missing_package(score)):
            yield Issue(f"{setting}.{name}.enabled=true", f"needs {missing}")


def scores_note(scores: Mapping[str, Score]) -> str | None:
    """A note about scores that are left out because a package is missing."""
    lacking = {name: missing for name, score in scores.items() if score.enabled and (missing := missing_package(score))}
    if not lacking:
        return None
    return f"scores left out: {', '.join(lacking)}; they need {' and '.join(dict.fromkeys(lacking.values()))}"


def goals_are_scored(job: TrainJob) -> Iterator[Issue]:
    """What something is compared by must be computed, and it must be known which values are better."""
    validation = job.validation
    for setting, name in goals(job).items():
        given = f"{setting}={SCORE}{name}"
        if not isinstance(validation, Validation):
            yield Issue(given, "validation=none samples no videos; use validation=default, or loss")
            continue
        score = validation.scores.get(name)
        if score is None:
            names = ", ".join(validation.scores) or "none"
            yield Issue(given, f"validation.scores has no {name}; it has: {names}")
        elif score.enabled is False:
            yield Issue(given, f"is not computed; add validation.scores.{name}=true")
        elif score.better is None:
            where = f"validation.scores.{name}.better"
            yield Issue(given, f"which values are better is not known; set {where}=higher or {where}=lower")
        if setting == "checkpoint.keep_best" and not (validation.every or validation.every_epochs):
            yield Issue(given, "compares validations, of which there is one after the last step; set validation.every")
