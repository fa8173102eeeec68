"""Chooses the run folder and starts the run."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from cogvx_exp.config.rules.jobs import train_notes
from cogvx_exp.config.rules.scores import goals, scores_of
from cogvx_exp.config.schema import TrainJob
from cogvx_exp.console.progress import console
from cogvx_exp.console.quiet import quiet_libraries
from cogvx_exp.core.disk import cache_trouble
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.files import new_folder, read_json
from cogvx_exp.data.dataset import Dataset, accept, load_dataset
from cogvx_exp.distributed.process_group import rank_and_world_size
from cogvx_exp.launch.disk import disk_trouble
from cogvx_exp.launch.early_checks import check_early
from cogvx_exp.launch.preflight import preflight
from cogvx_exp.launch.resume import changes, find_checkpoint, has_changed, resume_job
from cogvx_exp.launch.workers.job_files import Work
from cogvx_exp.launch.workers.start import run_workers
from cogvx_exp.model.source import pretrained_folder
from cogvx_exp.reporting.page import write_run_page
from cogvx_exp.runs.checkpoint_folder import CheckpointFolder, open_checkpoint
from cogvx_exp.runs.opening import Opening, write_started
from cogvx_exp.runs.run_folder import RunFolder, write_status
from cogvx_exp.runs.sweep_folder import link_job, objective
from cogvx_exp.training.stopping import Stopped

logger = logging.getLogger(__name__)

OUTPUTS = Path("outputs")


@dataclass(frozen=True)
class Start:
    """The inputs of a run."""

    folder: RunFolder
    dataset: Dataset
    checkpoint: CheckpointFolder | None
    opening: Opening | None
    """For a folder that already has a run: the changes to make once this one resumes it."""


def launch(job: TrainJob, overrides: list[str]) -> float | None:
    """Runs a training job in this process, or in processes that it starts.

    Returns:
        The objective of a sweep, the loss; None in worker processes other than the first.

    Raises:
        UserError: for problems that only the user can fix.
        CrashError: a worker failed with an internal error.
        Stopped: the run was asked to stop and has saved its state.
    """
    place = rank_and_world_size()
    console.quiet = place is not None and place[0] > 0
    for note in train_notes(job):
        console.warn(f"Note: {note}")
    # Every process runs this function then, so choosing a folder by the clock must be left to the first.
    if place:
        return _run_as_started(job, overrides, place)
    logger.info("settings: %s", " ".join(overrides))
    in_sweep, place_in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN, Path(HydraConfig.get().runtime.output_dir)
    if not in_sweep and (job.sweep.resume or job.sweep.gpus):
        raise UserError("sweep.resume and sweep.gpus are for sweeps (-m); for a single run, use resume=auto")
    if in_sweep:
        _check_direction(job, HydraConfig.get().sweeper.get("direction"))
    if in_sweep and job.sweep.resume:
        job, done = resume_job(job, job.run_dir or place_in_sweep)
        logger.info("sweep.resume: %s %s", job.run_dir, "is finished" if done else "goes on")
        if done:
            return objective(done, job.sweep.objective)
    start = _begin(job, overrides)
    folder, checkpoint = start.folder, start.checkpoint
    job = job.model_copy(update={"run_dir": folder.path})
    # Of several machines, only the first one writes into the sweep's folder.
    if in_sweep and job.distributed.node_rank == 0:
        # Hydra has created a folder for the job; its run may be elsewhere (run_dir).
        link_job(place_in_sweep, folder.path)
    # With several machines, the first one writes.
    with _status(job, start) if job.distributed.node_rank == 0 else nullcontext():
        if job.distributed.name == "single" and not in_sweep:
            return _run_here(job, start)
        # Each job of a sweep runs in its own process, which releases all memory when it exits.
        log = folder.path / "output.log" if in_sweep else None
        run_workers(Work(job, checkpoint.path if checkpoint else None, start.opening), folder, log)
    if job.distributed.node_rank:
        return None
    return objective(read_json(folder.path / "summary.json"), job.sweep.objective)


def _check_direction(job: TrainJob, direction: Any) -> None:
    """Refuses a search that would look for the worst value. `direction`: hydra.sweeper.direction, if there is one."""
    name = goals(job).get("sweep.objective")
    better = scores_of(job)[name].better if name else "lower"
    needed = {"higher": "maximize", "lower": "minimize"}[str(better)]
    if direction is not None and getattr(direction, "name", str(direction)) != needed:
        goal = job.sweep.objective
        raise UserError(f"sweep.objective={goal}: {better} is better, so hydra.sweeper.direction must be {needed}")


def _begin(job: TrainJob, overrides: list[str]) -> Start:
    """Finds the checkpoint, checks data and memory, and creates the run folder if it is new."""
    checkpoint = find_checkpoint(job, OUTPUTS) if job.resume else None
    changed_settings = changes(job, checkpoint) if checkpoint else []
    for change in changed_settings:
        console.warn(f"Changed since the checkpoint: {change}")
    folder = RunFolder(_run_dir(job, checkpoint))
    writes = job.distributed.node_rank == 0  # other machines may see files the first one has just written
    new = folder.path.parent == OUTPUTS and not job.run_dir and not checkpoint  # the name can be changed
    logger.info("run folder %s, new: %s; from checkpoint %s", folder.path, new, checkpoint and checkpoint.path)
    if writes and not new:
        _refuse_another_run(job, folder, checkpoint)
    opening = None
    if writes and not new and folder.config.exists():
        changed = bool(changed_settings) if checkpoint else has_changed(job, folder.path)
        opening = Opening(_arguments(overrides), changed)
    # The most common errors are found before the run folder is created and torch is imported.
    with cache_trouble(job.cache_dir):
        if job.model.weights == "pretrained":
            pretrained_folder(job.model)
        check_early(job)
        dataset = load_dataset(job.data, job.cache_dir)
    # After the data: the largest bucket that really occurs decides, not the largest that is allowed.
    preflight(job, overrides, {clip.bucket for clip in dataset.clips})
    issues = folder.issues if writes else None
    if opening:
        issues = opening.issues(folder, job)
        issues.unlink(missing_ok=True)
    elif writes:
        folder = _start_folder(folder, job, overrides, new=new)
        issues = folder.issues
    if writes and HydraConfig.get().mode == RunMode.RUN:  # a sweep has a table
        console.print(f"Run folder: {folder.path}", soft_wrap=True, markup=False)
    accept(dataset, job.data, console, issues)
    return Start(folder, dataset, checkpoint, opening)


def _refuse_another_run(job: TrainJob, folder: RunFolder, checkpoint: CheckpointFolder | None) -> None:
    """Stops a run whose folder contains another run that it does not resume."""
    goes_on = job.resume == "auto" if checkpoint is None else checkpoint.run_dir.resolve() == folder.path.resolve()
    if folder.config.exists() and not goes_on:
        raise UserError(f"run_dir={folder.path} already has a run; add resume=latest to continue it, or choose another")


def _start_folder(folder: RunFolder, job: TrainJob, overrides: list[str], *, new: bool) -> RunFolder:
    """Creates the run folder; with `new`, one that no other run has, even one started in the same second."""
    try:
        if new:
            # Created only now, when most errors are behind: an attempt that fails leaves no folder.
            folder = RunFolder(new_folder(folder.path))
        folder.start(job, _arguments(overrides))
        return folder
    except OSError as error:
        raise UserError(f"run_dir={folder.path} cannot be written: {error.strerror}; choose another folder") from None


def _run_here(job: TrainJob, start: Start) -> float | None:
    """Trains in this process."""
    quiet_libraries(job.quant.name)
    from cogvx_exp.training.run import train

    summary = train(job, start.folder, start.dataset, start.checkpoint, start.opening).summary
    return objective(summary, job.sweep.objective)


def _run_as_started(job: TrainJob, overrides: list[str], place: tuple[int, int]) -> float | None:
    """Trains as one of several processes started by torchrun, accelerate or Slurm."""
    rank, world_size = place
    if job.distributed.name == "single":
        raise UserError(
            f"this is process {rank} of {world_size}, but distributed=single; use distributed=ddp or another mode"
        )
    # Whoever started the processes decides how many; conf's number is only for our own launcher.
    there = job.distributed.model_copy(update={"processes": world_size, "nodes": 1, "node_rank": 0})
    job = job.model_copy(update={"distributed": there})
    quiet_libraries(job.quant.name)
    from cogvx_exp.training.run import joined

    # The first process determines the run folder and checkpoint, and the others receive them by all_gather.
    with joined(job) as processes:
        paths: list[str | None] = [None, None]
        failure = ""
        opening = None
        if processes.is_main_process:
            try:
                begun = _begin(job, overrides)
                opening = begun.opening
                paths = [str(begun.folder.path), str(begun.checkpoint.path) if begun.checkpoint else None]
            # Sent to the others, which would otherwise wait for a folder that never comes.
            except UserError as error:
                failure = str(error)
        failure, (run_dir, path) = processes.all_gather([failure, paths])[0]
        if failure:
            raise UserError(failure)
        folder = RunFolder(Path(run_dir))
        job = job.model_copy(update={"run_dir": folder.path})
        checkpoint = open_checkpoint(Path(path)) if path else None
        start = Start(folder, load_dataset(job.data, job.cache_dir), checkpoint, opening)
        with _status(job, start) if processes.is_main_process else nullcontext():
            return _run_here(job, start)


@contextmanager
def _status(job: TrainJob, start: Start) -> Iterator[None]:
    """Records a run's status until its end; in an earlier run's folder only once it has resumed."""
    folder, before = start.folder, _stamp(start.folder)
    try:
        with disk_trouble(folder):
            if start.opening is None:
                write_started(folder, job, os.getpid())
            yield
    except Stopped as stopped:
        if _stamp(folder) != before:
            write_status(folder, "stopped", message=stopped.message)
        console.warn(stopped.message)
        raise
    # Also KeyboardInterrupt: a status "running" of a process that is gone would be read as "lost".
    except BaseException as error:
        if _stamp(folder) != before:
            _write_failure(folder, str(error) or type(error).__name__)
        raise
    finally:
        if _stamp(folder) != before:
            write_run_page(folder)


def _stamp(folder: RunFolder) -> tuple[int, int] | None:
    """Changes when the status is written, that is, once the run has begun."""
    try:
        status = folder.status.stat()
    except OSError:
        return None
    # The inode, too: an atomic write within one tick of the clock has the same time.
    return status.st_mtime_ns, status.st_ino


def _write_failure(folder: RunFolder, message: str) -> None:
    with suppress(OSError):  # the disk may be the cause
        write_status(folder, "failed", message=message)


def _arguments(overrides: list[str]) -> list[str]:
    """The command-line arguments that repeat the run; for a job of a sweep, only that job."""
    hydra = HydraConfig.get()
    config_dirs = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    overrides = [text for text in overrides if not text.startswith("sweep.")]
    return ["--config-dir", config_dirs[0], *overrides, "hydra.mode=RUN"] if config_dirs else overrides


def _run_dir(job: TrainJob, checkpoint: CheckpointFolder | None) -> Path:
    """`run_dir`, or the resumed run's folder, or a sweep's folder for the job, or a new one."""
    if job.run_dir:
        return job.run_dir
    if checkpoint:
        return checkpoint.run_dir
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN:
        return Path(hydra.runtime.output_dir)
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return OUTPUTS / f"{now}_{job.name}"
