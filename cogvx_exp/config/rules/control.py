"""Rules about conditions and control videos."""

from collections.abc import Iterator

from cogvx_exp.config.issues import Issue
from cogvx_exp.config.schema import PrepareJob, TrainJob


def control_suits_task(job: TrainJob | PrepareJob) -> Iterator[Issue]:
    """Control videos belong to task=control and fit its condition."""
    task, data = job.task, job.data
    if task.name == "control" and task.condition is None:
        yield Issue("task.condition=null", "task=control needs one: video or first")
    if data.control is not None and (task.name != "control" or task.condition != "video"):
        what = f"task.condition={task.condition}" if task.name == "control" else f"task={task.name}"
        yield Issue(f"data.control={data.control}", f"{what} uses no control videos; remove it, or use task=control")
    elif data.control == "masks":
        yield Issue("data.control=masks", "is for task.condition=mask; use files for control videos")
    if task.name == "control" and task.condition != "first" and task.image_scale not in (None, "auto"):
        yield Issue(
            f"task.image_scale={task.image_scale}", "is for task.condition=first; condition videos are multiplied"
        )
    encoded = any(source.source == "latents" for source in data.all_sources())
    if encoded and data.control not in (None, "files"):
        yield Issue(f"data.control={data.control}", "data=latents has no frames; encode the control videos, too")
    if data.control in (None, "files", "masks") and data.control_kwargs:
        yield Issue("data.control_kwargs", f"data.control={data.control or 'null'} takes no arguments")
