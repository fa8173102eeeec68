"""Rules about conditions and control videos."""

from collections.abc import Iterator

from cogvx_exp.config.issues import Issue
from cogvx_exp.config.schema import PrepareJob, TrainJob

Issues = Iterator[Issue]


def control_suits_task(job: TrainJob | PrepareJob) -> Issues:
    """Control videos belong to task=control and fit its condition."""
    task, data = job.task, job.data
    condition = task.condition if task.name == "control" else None
    if task.name == "control" and condition is None:
        yield Issue("task.condition=null", "task=control needs one, such as video")
    what = f"task.condition={condition}" if condition else f"task={task.name}"
    from_masks = condition == "mask" and task.masks == "files"
    if data.control == "masks" and not from_masks:
        yield Issue("data.control=masks", "is for task.condition=mask task.masks=files")
    elif data.control not in (None, "masks") and condition != "video":
        yield Issue(f"data.control={data.control}", f"{what} uses no control videos; remove it, or use task=control")
    if condition not in (None, "first") and task.image_scale not in (None, "auto"):
        yield Issue(f"task.image_scale={task.image_scale}", "is only for task.condition=first")
    if data.control in ("files", "masks") and any(source.source == "demo" for source in data.all_sources()):
        yield Issue(f"data.control={data.control}", "data=demo has no such videos; use your own, or data.control=gray")
    if data.control in (None, "files", "masks") and data.control_kwargs:
        yield Issue("data.control_kwargs", f"data.control={data.control or 'null'} takes no arguments")
    yield from _latents_have_it(job, condition)
    if condition == "prefix":
        yield from _prefix_fits(job)
    if condition == "mask" and task.masks is None:
        yield Issue("task.masks=null", "set a number of random masks per clip, or files")


def _latents_have_it(job: TrainJob | PrepareJob, condition: str | None) -> Issues:
    if not any(source.source == "latents" for source in job.data.all_sources()):
        return
    if job.data.control not in (None, "files", "masks"):
        yield Issue(f"data.control={job.data.control}", "data=latents has no frames; use files (control_latents/)")
    if condition not in (None, "first", "video"):
        yield Issue(f"task.condition={condition}", "data=latents has no frames to hide; use data=files or another form")


def _prefix_fits(job: TrainJob | PrepareJob) -> Issues:
    given = job.task.prefix_frames
    shortest = min(job.data.frame_buckets)
    if given is None:
        yield Issue("task.prefix_frames=null", "set the fewest and the most frames, such as [1,5]")
    elif given[0] > given[1] or given[1] >= shortest or any(count % 4 != 1 for count in given):
        most = (shortest - 2) // 4 * 4 + 1
        problem = f"must be two ascending numbers of the form 4N+1 below data.frame_buckets, such as [1,{most}]"
        yield Issue(f"task.prefix_frames=[{given[0]},{given[1]}]", problem)
