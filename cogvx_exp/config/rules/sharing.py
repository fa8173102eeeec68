"""Rules about what a run takes from others and gives to them: adapters, images, the Hub."""

import re
from collections.abc import Iterator

from cogvx_exp.config.faults import Fault
from cogvx_exp.config.schema import TrainJob, Validation


def adapter_settings_fit(job: TrainJob) -> Iterator[Fault]:
    """What adapters can start from and be merged with."""
    if job.method.init_from and job.method.adapter != "lora":
        yield Fault(f"method.init_from={job.method.init_from}", f"only for method=lora, not {job.method.name}")
    if job.method.init_from and job.method.init not in (None, "default", "gaussian"):
        problem = "takes the adapter's beginning out of the base, which method.init_from replaces; use default"
        yield Fault(f"method.init={job.method.init}", problem)
    if job.export.merge and job.method.kind == "full":
        yield Fault("export.merge=true", f"method={job.method.name} trains the base itself; there is nothing to merge")


def images_suit_task(job: TrainJob) -> Iterator[Fault]:
    """Images are given only where videos start from them."""
    images = job.validation.images if isinstance(job.validation, Validation) else None
    if images is None:
        return
    if job.task.name != "i2v":
        yield Fault("validation.images", f"task={job.task.name} starts from no images; take them out, or use task=i2v")
    elif not images:
        yield Fault("validation.images", "names no image; use null for the clips' first frames")


def hub_is_named(job: TrainJob) -> Iterator[Fault]:
    """A repository to push to is named, and something worth pushing is trained."""
    required = job.hub.push or (job.hub.dry_run and job.hub.repo)
    if required and not re.fullmatch(r"[\w.-]+/[\w.-]+", job.hub.repo or ""):
        yield Fault(f"hub.repo={job.hub.repo or 'null'}", "hub.push=true needs a repository, as owner/name")
    if job.hub.push and job.model.weights != "pretrained" and not job.hub.dry_run:
        problem = f"what was trained on {job.model.weights} weights is not publishable; use hub.dry_run=true"
        yield Fault("hub.push=true", problem)
