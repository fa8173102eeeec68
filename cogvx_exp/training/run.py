"""One training run, from a checked job to a folder with its results."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import AutocastKwargs
from diffusers import CogVideoXTransformer3DModel

from cogvx_exp.config.schema import TrainJob, Validation
from cogvx_exp.console.progress import console
from cogvx_exp.core.disk import plain_disk_errors
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.files import replacing_folder, write_json
from cogvx_exp.data.dataset import Dataset
from cogvx_exp.distributed.process_group import ProcessGroup, destroy_process_group, init_process_group, local_device
from cogvx_exp.evaluation.generation import Recipe
from cogvx_exp.model.device import Compute, check_devices, choose_compute
from cogvx_exp.model.load import load_trained, load_transformer, load_whole
from cogvx_exp.model.offload.blocks import apply_memory_options
from cogvx_exp.model.offload.module import free_weights
from cogvx_exp.runs.checkpoint_folder import CheckpointFolder
from cogvx_exp.runs.environment import environment
from cogvx_exp.runs.opening import Opening
from cogvx_exp.runs.run_folder import Metrics, NoMetrics, RunFolder, read_metrics, write_status
from cogvx_exp.tracking.plot import plot_loss
from cogvx_exp.tracking.publish import publish
from cogvx_exp.tracking.strip import draw_strip
from cogvx_exp.tracking.trackers import Trackers
from cogvx_exp.training.callbacks import Callbacks
from cogvx_exp.training.checkpoint.saver import CheckpointSaver
from cogvx_exp.training.context import Context
from cogvx_exp.training.export import export, export_merged
from cogvx_exp.training.loop import LoopConfig, train_loop
from cogvx_exp.training.monitor.memory import MemoryLog
from cogvx_exp.training.monitor.out_of_memory import explained_out_of_memory
from cogvx_exp.training.setup import Training, build_training, load_base, prepare_data
from cogvx_exp.training.stopping import Stopped, StopRequest

DEFAULT_TIMEOUT = 1800
"""Seconds that a process waits for the others in a step, as in the reference."""


@dataclass(frozen=True)
class Result:
    """What a run gives back to the program that started it."""

    transformer: CogVideoXTransformer3DModel
    """The trained model: with validation, as loaded from what was exported."""
    summary: dict[str, Any]
    """The content of summary.json."""


def train(
    job: TrainJob,
    folder: RunFolder,
    dataset: Dataset,
    checkpoint: CheckpointFolder | None,
    opening: Opening | None = None,
) -> Result:
    """Prepares the data, trains, validates and exports. Of several processes, the first one writes.

    Args:
        job: the checked configuration.
        folder: where everything is written.
        dataset: the clips.
        checkpoint: the state to go on from.
        opening: if the folder has a run: what is written when all is ready, and nothing before.

    Raises:
        UserError: anything only the user can fix; or a checkpoint could not be written, and the rest was.
        Stopped: the run was asked to stop and has saved its state.
    """
    started = time.monotonic()
    stop = StopRequest(job.checkpoint.max_minutes)
    with explained_out_of_memory(job), stop.listening(), joined(job) as processes:
        assert processes.world == job.distributed.processes * job.distributed.nodes, "all of the processes are there"
        compute = choose_compute(local_device(job.device), job.model)
        check_devices(processes, compute.device)
        set_tf32(job.allow_tf32)
        memory = MemoryLog(compute.device, processes)
        data = prepare_data(job, dataset, compute, opening.faults(folder, job) if opening else folder.faults, processes)
        memory.record("encoding")
        with accelerator_for(compute) as accelerator:
            training = build_training(job, data, accelerator, checkpoint)
            run = Context(
                job, folder, data, training, memory, _open(job, folder, training, compute, opening, processes)
            )
            memory.record("before_training")
            if not checkpoint and data.validator and isinstance(job.validation, Validation) and job.validation.baseline:
                run.sample(training.transformer, 0)
                memory.record("after_validation")
            last, unsaved = _train(run, stop)
            memory.record("before_validation")
        if last < training.steps:
            run.trackers.finish()
            processes.barrier()  # the first one writes, and whatever starts the processes ends all when one has ended
            if unsaved:
                raise UserError(unsaved)
            raise Stopped(
                f"Stopped after step {last} of {training.steps}: {stop.reason}; resume=auto goes on from there"
            )
        exported = _export(run)
        training.state.free()  # in a sweep, the next job needs the memory, too
        transformer = training.transformer
        if data.validator:
            transformer = _sample_from_export(run, exported)
            memory.record("after_testing")
        summary: dict[str, Any] = {}
        if processes.is_main_process:
            summary = _finish(run, exported, time.monotonic() - started, unsaved)
        return Result(transformer, processes.all_gather(summary)[0])


def _open(
    job: TrainJob,
    folder: RunFolder,
    training: Training,
    compute: Compute,
    opening: Opening | None,
    processes: ProcessGroup,
) -> Trackers:
    """Writes what a run starts with, now that nothing but training can fail."""
    if not processes.is_main_process:
        return Trackers()
    if opening:
        opening.write(folder, job, training.first_step)
    write_json(folder.path / "environment.json", environment(compute.device))
    return Trackers(job, folder, training.first_step)


def set_tf32(allowed: bool) -> None:
    """Whether float32 products may use TensorFloat-32: cuDNN has a flag of its own, which is on by default."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


@contextmanager
def joined(job: TrainJob) -> Iterator[ProcessGroup]:
    """Joins the processes that share the job, if there are others.

    After an error this process does not take leave of them: with nccl that waits for kernels, and those wait for the
    other processes, which may never come. It has to end for them to notice.
    """
    cuda = local_device(job.device) != "cpu" and torch.cuda.is_available()
    processes = init_process_group(cuda, job.distributed.timeout or DEFAULT_TIMEOUT)
    console.quiet = not processes.is_main_process
    yield processes
    destroy_process_group()


def _train(run: Context, stop: StopRequest) -> tuple[int, str]:
    """The training loop with what happens between steps.

    Returns:
        The last step done, and what is wrong with its checkpoint if that could not be written.
    """
    job, training, folder = run.job, run.training, run.folder
    saver = CheckpointSaver(folder.checkpoints, job.checkpoint)
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
        with writer as metrics, stop.after_step():
            batches = training.batches(job, run.data, stop.waiting)
            last = train_loop(training.state, batches, training.loss, metrics, schedule)
            if last < training.steps:
                stop.settle()
        if last < training.steps:
            callbacks.save(last)
    finally:
        saver.wait()
    failure = run.processes.all_gather(saver.finish())[0]
    training.seconds_for_checkpoints = {"waited": saver.seconds_waited, "writing": saver.seconds_writing}
    return last, failure


@contextmanager
def accelerator_for(compute: Compute) -> Iterator[Accelerator]:
    """An Accelerator whose process-wide state ends with the run, so that the next job can choose its own."""
    try:
        yield Accelerator(
            cpu=compute.device.type == "cpu",
            mixed_precision=compute.mixed_precision,
            kwargs_handlers=[AutocastKwargs(cache_enabled=False)],  # see Compute.autocast
        )
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def _export(run: Context) -> Path:
    """Writes the result as diffusers or peft load it."""
    job, compute, training = run.job, run.data.compute, run.training
    exported = ""
    with training.state.ema_weights():
        complete = training.state.strategy.full_model()
        if run.processes.is_main_process:
            with replacing_folder(run.folder.export) as beside, plain_disk_errors(run.folder.export):
                written = export(complete, job.method, beside, compute.dtype, training.about)
            exported = str(run.folder.export / written.relative_to(beside))
    exported = run.processes.all_gather(exported)[0]
    if job.export.merge and run.processes.is_main_process:
        host = Compute(torch.device("cpu"), compute.dtype)
        base = load_transformer(run.data.pipeline, host)
        with plain_disk_errors(run.folder.export):
            export_merged(load_trained(base, Path(exported), host), run.folder.export, compute.dtype)
    return Path(exported)


def _sample_from_export(run: Context, exported: Path) -> CogVideoXTransformer3DModel:
    """The last videos come from what was written, which is returned, not from the model in memory, which is freed."""
    job, training, compute = run.job, run.training, run.data.compute
    free_weights(training.transformer, compute.device)
    run.memory.record("export")  # what was there until now is no part of the next phase
    # A whole transformer needs no base; two of them would not fit where one was trained.
    transformer = (
        load_whole(exported, compute)
        if exported.is_dir()
        else load_trained(load_base(job, run.data), exported, compute)
    )
    apply_memory_options(transformer, job.memory, compute.device)
    recipe = Recipe(job.model, [exported], [1.0], [1.0])
    run.sample(transformer, training.steps, **recipe.about())
    return transformer


def _finish(run: Context, exported: Path, seconds: float, unsaved: str) -> dict[str, Any]:
    """Sums the run up.

    Raises:
        UserError: the last checkpoint could not be written, as `unsaved` says; all else is there.
    """
    job, folder, training = run.job, run.folder, run.training
    lines = read_metrics(folder.metrics)
    if lines:  # else the run has only exported a checkpoint
        plot_loss(lines, folder.path / "loss.png", job.name)
    summary = _summary(job, lines, run.memory, exported, seconds)
    summary |= {"held_out": read_metrics(folder.held_out)[-1]} if training.held_out else {}
    summary["processes"] = run.processes.world
    summary["checkpoint_seconds"] = {name: round(value, 3) for name, value in training.seconds_for_checkpoints.items()}
    summary["clips"] = run.data.encoded.dataset.describe()
    write_json(folder.path / "summary.json", summary)
    run.trackers.finish()
    if unsaved:
        raise UserError(f"{unsaved}. The run has finished, and its result is in {exported}")
    write_status(folder, "finished", step=training.steps)
    draw_strip(folder)
    _say_result(folder, summary)
    if job.hub.push or job.hub.dry_run:
        gathered = publish(job, folder, training.about)
        done = "Would be pushed" if job.hub.dry_run else f"Pushed to {job.hub.repo}"
        console.print(f"{done}: {gathered}", soft_wrap=True)
    return summary


def _summary(
    job: TrainJob, lines: list[dict[str, Any]], memory: MemoryLog, exported: Path, seconds: float
) -> dict[str, Any]:
    tail = lines[-max(len(lines) // 10, 1) :]
    return {
        "name": job.name,
        "status": "finished",
        "steps": lines[-1]["step"] if lines else 0,
        "loss_last_tenth": sum(line["loss"] for line in tail) / len(tail) if tail else None,
        "seconds": round(seconds, 1),
        "seconds_per_step": round(float(np.median([line["step_seconds"] for line in lines])), 4) if lines else 0.0,
        "memory": memory.phases,
        "memory_figures": memory.figures(),
        "export": str(exported),
    }


def _say_result(folder: RunFolder, summary: dict[str, Any]) -> None:
    console.print(f"\nDone in {summary['seconds']:.0f} s, {summary['seconds_per_step']:.2f} s a step")
    figures = "  ".join(f"{name.replace('_', ' ')} {size:.2f}" for name, size in summary["memory_figures"].items())
    console.print(f"Memory, GiB at most:  {figures}", soft_wrap=True)
    results = {
        "page": folder.path / "report" / "index.html",
        "loss": folder.path / "loss.png",
        "before/after": folder.path / "videos.png",
        "videos": folder.path / "validation",
        "checkpoints": folder.checkpoints,
        "export": Path(summary["export"]),
        "summary": folder.path / "summary.json",
    }
    for label, path in results.items():
        if path.exists():
            console.print(f"  {label:<12} {path}", soft_wrap=True)
    console.print(f"Sample from it:  python -m cogvx_exp.generate generate.adapter={folder.path}", soft_wrap=True)
