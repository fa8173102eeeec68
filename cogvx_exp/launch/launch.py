"""Chooses the run's folder and starts the work."""

from datetime import datetime
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from cogvx_exp.config.rules import train_notes
from cogvx_exp.config.schema import TrainJob
from cogvx_exp.data.dataset import accept, load_dataset
from cogvx_exp.errors import UserError
from cogvx_exp.launch.preflight import preflight
from cogvx_exp.launch.resume import changes, find_checkpoint
from cogvx_exp.model.source import pretrained_folder
from cogvx_exp.quiet import quiet_libraries
from cogvx_exp.tracking.progress import console
from cogvx_exp.tracking.run_folder import RunFolder
from cogvx_exp.training.checkpoint_files import CheckpointFolder

OUTPUTS = Path("outputs")


def launch(job: TrainJob, overrides: list[str]) -> float:
    """Runs a training job in this process and returns the objective of a sweep: the last loss.

    Raises:
        UserError: anything only the user can mend.
    """
    for note in train_notes(job):
        console.print(f"Note: {note}")
    checkpoint = find_checkpoint(job, OUTPUTS) if job.resume else None
    for change in changes(job, checkpoint) if checkpoint else []:
        console.print(f"Changed since the checkpoint: {change}", soft_wrap=True)
    folder = RunFolder(_run_dir(job, checkpoint))
    if checkpoint is None and (folder.path / "config.yaml").exists():
        raise UserError(f"run_dir={folder.path} already has a run; add resume=latest to go on with it, or name another")
    # What fails most often comes before the run's folder, and before torch is imported.
    if job.model.weights == "pretrained":
        pretrained_folder(job.model)
    dataset = load_dataset(job.data, job.cache_dir)
    preflight(job, overrides, {clip.bucket for clip in dataset.clips})
    folder.start(job, overrides)
    console.print(f"Run folder: {folder.path}", soft_wrap=True)
    accept(dataset, job.data, console, folder.faults)
    quiet_libraries()
    from cogvx_exp.training.run import train

    return float(train(job, folder, dataset, checkpoint).summary["loss_last_tenth"])


def _run_dir(job: TrainJob, checkpoint: CheckpointFolder | None) -> Path:
    """`run_dir`, or else the resumed run's folder, a sweep's folder for the job, or a new one."""
    if job.run_dir:
        return job.run_dir
    if checkpoint:
        return checkpoint.run_dir
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN:
        return Path(hydra.runtime.output_dir)
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    folder = OUTPUTS / f"{now}_{job.name}"
    number = 2
    while folder.exists():  # two runs that start in the same second
        folder = OUTPUTS / f"{now}_{job.name}_{number}"
        number += 1
    return folder
