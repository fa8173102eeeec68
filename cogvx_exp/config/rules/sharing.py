"""Rules about external inputs and outputs: adapters, images, the Hub."""

import re
from collections.abc import Iterator
from importlib.util import find_spec

from cogvx_exp.config.issues import Issue
from cogvx_exp.config.schema import TrainJob, Validation

REPOSITORY = r"[\w.-]+/[\w.-]+"
"""owner/name, as on the Hub."""


def adapter_settings_fit(job: TrainJob) -> Iterator[Issue]:
    """Conflicts between settings of adapters."""
    if job.method.init_from and job.method.adapter != "lora":
        yield Issue(f"method.init_from={job.method.init_from}", f"only for method=lora, not {job.method.name}")
    if job.method.init_from and job.method.init not in (None, "default", "gaussian"):
        problem = "initializes the adapter from the base, which method.init_from replaces; use default"
        yield Issue(f"method.init={job.method.init}", problem)
    if job.export.merge and job.method.kind == "full":
        yield Issue("export.merge=true", f"method={job.method.name} has no adapter to merge")


def images_suit_task(job: TrainJob) -> Iterator[Issue]:
    """Images are only allowed for image-to-video."""
    images = job.validation.images if isinstance(job.validation, Validation) else None
    if images is None:
        return
    if job.task.name != "i2v":
        yield Issue("validation.images", f"task={job.task.name} does not use images; remove them, or use task=i2v")
    elif not images:
        yield Issue("validation.images", "is empty; use null for the clips' first frames")


def hub_is_named(job: TrainJob) -> Iterator[Issue]:
    """The repository must be set, and the model must be publishable."""
    required = job.hub.push or (job.hub.dry_run and job.hub.repo)
    if required and not re.fullmatch(REPOSITORY, job.hub.repo or ""):
        yield Issue(f"hub.repo={job.hub.repo or 'null'}", "hub.push=true needs a repository, as owner/name")
    if job.hub.push and job.model.weights != "pretrained" and not job.hub.dry_run:
        problem = f"what was trained on {job.model.weights} weights is not publishable; use hub.dry_run=true"
        yield Issue("hub.push=true", problem)


def trackers_are_installed(job: TrainJob) -> Iterator[Issue]:
    """Packages that trackers need, and where Trackio logs to."""
    for name in ("tensorboard", "trackio"):
        if getattr(job.tracker, name) and find_spec(name) is None:
            yield Issue(f"tracker={name}", f"is not installed: pip install {name}")
    space = job.tracker.trackio and job.tracker.trackio.space
    if space and not re.fullmatch(REPOSITORY, space):
        yield Issue(f"tracker.trackio.space={space}", "must be owner/name")
