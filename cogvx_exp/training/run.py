"""A training run, from a checked job to a folder with its results."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import AutocastKwargs
from diffusers import CogVideoXTransformer3DModel

from cogvx_exp.config.schema import TrainJob, Validation
from cogvx_exp.console.progress import console
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.files import write_json
from cogvx_exp.data.dataset import Dataset
from cogvx_exp.distributed.process_group import ProcessGroup, destroy_process_group, init_process_group, local_device
from cogvx_exp.model.attention.backends import check_attention
from cogvx_exp.model.device import Compute, check_devices, choose_compute
from cogvx_exp.model.quantization.quantize import check_products
from cogvx_exp.runs.best import best_by
from cogvx_exp.runs.checkpoint_folder import CheckpointFolder
from cogvx_exp.runs.environment import environment
from cogvx_exp.runs.metrics import Metrics, NoMetrics
from cogvx_exp.runs.opening import Opening
from cogvx_exp.runs.run_folder import RunFolder
from cogvx_exp.tracking.trackers import Trackers
from cogvx_exp.training.callbacks import Callbacks
from cogvx_exp.training.checkpoint.saver import CheckpointSaver
from cogvx_exp.training.context import Context
from cogvx_exp.training.finish import export_result, finish, sample_from_export
from cogvx_exp.training.loop import LoopConfig, train_loop
from cogvx_exp.training.monitor.memory import MemoryLog
from cogvx_exp.training.monitor.out_of_memory import explained_out_of_memory
from cogvx_exp.training.monitor.profiled import profiled
from cogvx_exp.training.setup import Training, build_training, prepare_data
from cogvx_exp.training.stopping import Stopped, StopRequest

logger = logging.getLogger(__name__)

DEFAULT_TIMEOUT = 1800
"""Default timeout of collectives in a step in seconds, as in CogVideoX Factory."""


@dataclass(frozen=True)
class Result:
    """Result of a run for the calling program."""

    transformer: CogVideoXTransformer3DModel
    """The trained model; with validation, as loaded from the export."""
    summary: dict[str, Any]
    """The content of summary.json."""


def train(
    job: TrainJob,
    folder: RunFolder,
    dataset: Dataset,
    checkpoint: CheckpointFolder | None,
    opening: Opening | None = None,
) -> Result:
    """Prepares the data, trains, validates and exports. With several processes, the first one writes.

    Args:
        job: the checked configuration.
        folder: the run folder.
        dataset: the clips.
        checkpoint: the checkpoint to resume from.
        opening: for an existing run folder: delays writing until everything is ready.

    Raises:
        UserError: for problems that only the user can fix, or if a checkpoint could not be written.
        Stopped: the run was asked to stop and has saved its state.
    """
    started = time.monotonic()
    # Before anything else, so that the time limit includes encoding.
    stop = StopRequest(job.checkpoint.max_minutes)
    with explained_out_of_memory(job), stop.listening(), joined(job) as processes:
        assert processes.world_size == job.distributed.processes * job.distributed.nodes, "every process has joined"
        compute = choose_compute(local_device(job.device), job.model)
        check_devices(processes, compute.device)
        check_attention(job.attention, compute)
        check_products(job.quant, compute)
        set_tf32(job.allow_tf32)
        memory = MemoryLog(compute.device, processes)
        # An existing run folder is left untouched until training can begin, so issues go elsewhere until then.
        data = prepare_data(job, dataset, compute, opening.issues(folder, job) if opening else folder.issues, processes)
        memory.record("encoding")
        with accelerator_for(compute) as accelerator:
            training = build_training(job, data, accelerator, checkpoint)
            run = Context(
                job, folder, data, training, memory, _open(job, folder, training, compute, opening, processes)
            )
            memory.record("before_training")
            # A resumed run has its baseline already; sampling now would show trained weights under step 0.
            if not checkpoint and data.validator and isinstance(job.validation, Validation) and job.validation.baseline:
                run.sample(training.transformer, 0)
                memory.record("after_validation")
            last, unsaved = _train(run, stop)
            memory.record("before_validation")
        logger.info("trained to step %d of %d; asked to stop: %s", last, training.steps, stop.reason or "no")
        if last < training.steps:
            _raise_stopped(run, last, unsaved, stop)
        exported = export_result(run)
        # After the export: schedule-free optimizers still need their states to swap in the averaged weights.
        training.state.free()  # the final videos and the next job of a sweep need the memory
        transformer = training.transformer
        if data.validator:
            transformer = sample_from_export(run, exported)
            memory.record("after_testing")
        main, seconds = processes.is_main_process, time.monotonic() - started
        summary = finish(run, exported, seconds, unsaved) if main else {}
        # Also a barrier: the other processes stay until the first one has written everything.
        return Result(transformer, processes.all_gather(summary)[0])


def _raise_stopped(run: Context, last: int, unsaved: str, stop: StopRequest) -> NoReturn:
    """Ends a run that was asked to stop."""
    run.trackers.finish()
    run.processes.barrier()  # the first one still writes, and the launcher stops all when one exits
    if unsaved:
        raise UserError(unsaved)
    raise Stopped(f"Stopped after step {last} of {run.training.steps}: {stop.reason}; resume=auto continues from there")


def _open(
    job: TrainJob,
    folder: RunFolder,
    training: Training,
    compute: Compute,
    opening: Opening | None,
    processes: ProcessGroup,
) -> Trackers:
    """Writes the run's initial files, once only training itself can fail."""
    # Other processes have trackers without threads, so that callbacks need not ask who they are.
    if not processes.is_main_process:
        return Trackers()
    if opening:
        opening.write(folder, job, training.first_step)
    write_json(folder.path / "environment.json", environment(compute.device))
    return Trackers(job, folder, training.first_step)


def set_tf32(allowed: bool) -> None:
    """Sets whether float32 products may use TensorFloat-32: cuDNN has a separate flag, which is on by default."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


@contextmanager
def joined(job: TrainJob) -> Iterator[ProcessGroup]:
    """Joins the processes that share the job, if there are others.

    After an error the process group is not destroyed: with nccl that waits for kernels, which wait for other processes
    that may never come. The process has to exit for the others to notice.
    """
    cuda = local_device(job.device) != "cpu" and torch.cuda.is_available()
    processes = init_process_group(cuda, job.distributed.timeout or DEFAULT_TIMEOUT)
    console.quiet = not processes.is_main_process
    yield processes
    destroy_process_group()


def _train(run: Context, stop: StopRequest) -> tuple[int, str]:
    """Runs the training loop with its callbacks.

    Returns:
        The last completed step, and why its checkpoint could not be written, if so.
    """
    job, training, folder = run.job, run.training, run.folder
    saver = CheckpointSaver(folder.checkpoints, job.checkpoint, best_by(job))
    callbacks = Callbacks(run, saver)
    writer = (
        Metrics(folder.metrics, training.first_step, run.trackers.metrics)
        if run.processes.is_main_process
        else NoMetrics()
    )
    schedule = LoopConfig(
        first_step=training.first_step,
        steps=training.steps,
        accumulation=job.gradient_accumulation,
        max_grad_norm=job.max_grad_norm,
        seed=job.seed,
        processes=run.processes,
        wants_stop=stop,
        callbacks=callbacks.between_steps(),
        smoothed_loss=writer.last.get("loss_smoothed"),
    )
    try:
        with writer as metrics, stop.after_step(), profiled(run) as profiler:
            schedule = replace(schedule, profiler=profiler)
            batches = training.batches(job, run.data, stop.waiting)
            last = train_loop(training.state, batches, training.loss, metrics, schedule)
            if last < training.steps:
                stop.settle()
        if last < training.steps:
            callbacks.save(last)
    finally:
        # Also after an error: the checkpoint being written may be the last one.
        saver.wait()
    # Gathered, as only the first process writes, but all must end the same way.
    failure = run.processes.all_gather(saver.finish())[0]
    training.seconds_for_checkpoints = {"waited": saver.seconds_waited, "writing": saver.seconds_writing}
    return last, failure


@contextmanager
def accelerator_for(compute: Compute) -> Iterator[Accelerator]:
    """An Accelerator whose process-wide state ends with the run, so the next job can configure its own."""
    try:
        yield Accelerator(
            cpu=compute.device.type == "cpu",
            mixed_precision=compute.mixed_precision,
            kwargs_handlers=[AutocastKwargs(cache_enabled=False)],  # see Compute.autocast
        )
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
