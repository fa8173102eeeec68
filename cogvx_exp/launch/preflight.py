"""Stops a run that will not fit, before anything is loaded."""

from cogvx_exp.config.schema import TrainJob
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.quiet import quiet_libraries
from cogvx_exp.tracking.progress import console


def preflight(job: TrainJob, overrides: list[str], shapes: set[Bucket]) -> None:
    """Predicts the run's memory if there is a GPU or a budget.

    Args:
        job: the checked configuration.
        overrides: the command line it came from.
        shapes: the buckets of the data.

    Raises:
        UserError: it will not fit; says what would.
    """
    if not job.memory.preflight:
        return
    budget = job.memory.budget
    limit = f"memory.budget={budget}"
    if budget is None:
        if job.device == "cpu":
            return
        quiet_libraries()
        import torch

        if not torch.cuda.is_available():
            return
        properties = torch.cuda.get_device_properties(job.device if ":" in job.device else "cuda")
        budget = properties.total_memory / 2**30
        limit = f"the {budget:.1f} GiB of this {properties.name}"
    quiet_libraries()
    from cogvx_exp.estimate.command import refuse_if_too_large

    prediction = refuse_if_too_large(job, overrides, shapes, budget, limit)
    console.print(f"Predicted memory: {prediction.peak:.1f} GiB at most, of {budget:.1f}")
