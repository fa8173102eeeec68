"""Encodes a dataset or makes it from footage, in one or several processes, or inspects it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from cogvx_exp.config.schema import PrepareJob
from cogvx_exp.console.progress import console
from cogvx_exp.console.quiet import quiet_libraries
from cogvx_exp.core.disk import cache_trouble, disk_errors_explained
from cogvx_exp.core.files import make_folder
from cogvx_exp.data.dataset import Dataset, accept, load_dataset
from cogvx_exp.distributed.process_group import ProcessGroup, local_device, rank_and_world_size
from cogvx_exp.footage.stage import Stage
from cogvx_exp.launch.workers.processes import run_processes
from cogvx_exp.model.source import pretrained_folder

WORKER = "cogvx_exp.launch.workers.prepare"


def encode(job: PrepareJob) -> None:
    """Fills the cache, with the processes of this machine.

    Raises:
        UserError: the data or the model cannot be used, or a process failed.
    """
    with cache_trouble(job.cache_dir):
        if job.model.weights == "pretrained":
            pretrained_folder(job.model)
        dataset = load_dataset(job.data, job.cache_dir)
        # In the parent, so that a bad dataset is reported once and not by each worker.
        accept(dataset, job.data, console, _issues(job))
    if job.distributed.processes > 1 and rank_and_world_size() is None:
        run_processes(WORKER, job.model_dump_json(), job.distributed)
    else:
        encode_share(job, dataset)


def encode_share(job: PrepareJob, dataset: Dataset) -> None:
    """Encodes this process's share of the dataset.

    Raises:
        UserError: clips cannot be encoded, or the disk is full.
    """
    with cache_trouble(job.cache_dir):
        _encode_share(job, dataset)


def _encode_share(job: PrepareJob, dataset: Dataset) -> None:
    quiet_libraries()
    from cogvx_exp.latents.context import PipelineContext
    from cogvx_exp.latents.dataset import encode_dataset
    from cogvx_exp.model.device import choose_compute
    from cogvx_exp.model.load import pipeline_folder
    from cogvx_exp.tasks.base import build_task

    processes = ProcessGroup(*(rank_and_world_size() or (0, 1)))
    console.quiet = not processes.is_main_process
    console.print(dataset.describe())
    compute = choose_compute(local_device(job.device), job.model)
    pipeline = pipeline_folder(job.model, job.cache_dir)
    context = PipelineContext(pipeline, compute, job.memory, job.cache_dir, build_task(job.task), processes)
    encode_dataset(dataset, job.data, context, [], _issues(job))
    console.result(f"Encoded in {context.cache.folder}")


def make_dataset(job: PrepareJob) -> None:
    """Runs a mode that turns footage into a dataset, with the processes of this machine.

    Raises:
        UserError: a setting or file cannot be used, a process failed, or a disk is full; results so far are kept.
    """
    with _disk_explained(job):
        make_folder(job.cache_dir, "cache_dir")
        stage = _stage(job)
        try:
            if job.distributed.processes > 1 and rank_and_world_size() is None:
                run_processes(WORKER, job.model_dump_json(), job.distributed)
            else:
                stage.work(*(rank_and_world_size() or (0, 1)))
        finally:
            stage.merge()


def work_on_share(job: PrepareJob) -> None:
    """Does this process's share of such a mode.

    Raises:
        UserError: see `make_dataset`.
    """
    place = rank_and_world_size() or (0, 1)
    console.quiet = place[0] > 0
    with _disk_explained(job):
        _stage(job).work(*place)


def _stage(job: PrepareJob) -> Stage:
    from cogvx_exp.footage.caption.caption import CaptionStage
    from cogvx_exp.footage.filter.filter import FilterStage
    from cogvx_exp.footage.split.split import SplitStage

    stages: dict[str, Callable[[PrepareJob], Stage]] = {
        "split": SplitStage,
        "filter": FilterStage,
        "caption": CaptionStage,
    }
    return stages[job.mode](job)


def _disk_explained(job: PrepareJob) -> AbstractContextManager[None]:
    return disk_errors_explained(
        lambda error: (
            f"{error.filename or job.data.root}: {error.strerror}; free some space. Results so far are kept: run the "
            "same command again to continue"
        )
    )


def inspect(job: PrepareJob) -> None:
    """Prints the dataset's contents and writes a page with a contact sheet."""
    from cogvx_exp.latents.inspect import inspect_dataset

    dataset = load_dataset(job.data, job.cache_dir)
    inspect_dataset(dataset, job, console)


def review(job: PrepareJob) -> None:
    """Writes a page on which captions can be corrected."""
    from cogvx_exp.footage.review.review import write_review

    write_review(job)


def _issues(job: PrepareJob) -> Path:
    rank, _ = rank_and_world_size() or (0, 1)
    return job.cache_dir / (f"faults-{rank}.csv" if rank else "faults.csv")
