"""Position of a resumed run, and messages about it. Does not need torch."""

import math

from cogvx_exp.config.rules.notes import too_few_to_profile
from cogvx_exp.config.schema import TrainJob
from cogvx_exp.console.progress import console
from cogvx_exp.core.errors import UserError
from cogvx_exp.data.dataset import Dataset
from cogvx_exp.data.identity import dataset_changes, identity_of
from cogvx_exp.runs.checkpoint_folder import CheckpointFolder


def batches_done(checkpoint: CheckpointFolder, batch_size: int) -> int:
    """Batches seen at a checkpoint by all processes, counted in the current batch size and rounded up."""
    before = checkpoint.manifest["config"].get("batch_size", batch_size)
    # Rounded up: some clips are skipped rather than seen twice.
    return int(-(-checkpoint.manifest["batches"] * before // batch_size))


def run_steps(job: TrainJob, batches_per_epoch: int, batches_per_step: int, checkpoint: CheckpointFolder | None) -> int:
    """Optimizer steps of the whole run, including those of the checkpoint.

    Raises:
        UserError: the checkpoint has more steps.
    """
    if job.epochs is None:
        return job.steps
    step, done = (checkpoint.step, batches_done(checkpoint, job.batch_size)) if checkpoint else (0, 0)
    steps = step + math.ceil((job.epochs * batches_per_epoch - done) / batches_per_step)
    if checkpoint:
        refuse_fewer_steps(steps, checkpoint, f"epochs={job.epochs}")
    return steps


def refuse_fewer_steps(steps: int, checkpoint: CheckpointFolder, given: str) -> None:
    """Rejects a run that ends before its checkpoint.

    Args:
        steps: steps of the whole run.
        checkpoint: the checkpoint to resume from.
        given: the setting that determines the steps.

    Raises:
        UserError: the run ends before the checkpoint.
    """
    if steps < checkpoint.step:
        raise UserError(
            f"{given} ends before {checkpoint.path}, which has {checkpoint.step} steps; raise it to continue, set "
            f"steps={checkpoint.step} to export that checkpoint, or choose an older one with resume=PATH"
        )


def refuse_too_few_to_profile(job: TrainJob, steps: int, checkpoint: CheckpointFolder | None) -> None:
    """Rejects a new run with too few steps to profile. A resumed run is not rejected.

    Args:
        job: the settings.
        steps: steps of the whole run; with `epochs`, they are only known once the data is.
        checkpoint: the checkpoint to resume from, if any.

    Raises:
        UserError: the run is too short.
    """
    problem = None if checkpoint else too_few_to_profile(job.profile, steps, f"epochs={job.epochs} are {steps}")
    if problem:
        raise UserError(f"profile.enabled=true {problem}")


def changes_around(checkpoint: CheckpointFolder, processes: int, dataset: Dataset) -> list[str]:
    """Changes apart from settings: processes and data."""
    before = checkpoint.manifest.get("processes", 1)
    notes = [f"{before} processes, now {processes}"] if before != processes else []
    return notes + dataset_changes(checkpoint.manifest.get("dataset"), identity_of(dataset))


def print_resumed(checkpoint: CheckpointFolder, changes: list[str], steps: int) -> None:
    """Prints changes, and where the run continues."""
    for change in changes:
        console.warn(f"Changed since the checkpoint: {change}")
    what = "Resuming from" if checkpoint.step < steps else "Nothing left to train; exporting"
    console.print(f"{what} step {checkpoint.step} ({checkpoint.path})", soft_wrap=True, markup=False)
