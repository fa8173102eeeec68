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
from cogvx_exp.data.dataset import Dataset
from cogvx_exp.evaluation.generation import Recipe
from cogvx_exp.files import write_json
from cogvx_exp.model.blocks import arrange_blocks
from cogvx_exp.model.device import Compute, check_devices, choose_compute, release
from cogvx_exp.model.load import load_trained, load_transformer, load_whole
from cogvx_exp.team import Team, join_team, leave_team, local_device
from cogvx_exp.tracking.environment import environment
from cogvx_exp.tracking.plot import plot_loss
from cogvx_exp.tracking.progress import console
from cogvx_exp.tracking.publish import publish
from cogvx_exp.tracking.run_folder import Metrics, NoMetrics, RunFolder, read_metrics, write_status
from cogvx_exp.tracking.strip import draw_strip
from cogvx_exp.tracking.trackers import Trackers
from cogvx_exp.training.actions import Actions
from cogvx_exp.training.checkpoint_files import CheckpointFolder
from cogvx_exp.training.context import Context
from cogvx_exp.training.export import export, export_merged
from cogvx_exp.training.loop import Schedule, train_loop
from cogvx_exp.training.memory import MemoryLog
from cogvx_exp.training.out_of_memory import explained_out_of_memory
from cogvx_exp.training.saving import CheckpointSaver
from cogvx_exp.training.setup import build_training, load_base, prepare_data
from cogvx_exp.training.stopping import Stopped, StopRequest

DEFAULT_TIMEOUT = 1800
"""Seconds that a process waits for the others in a step, as in the reference."""


@dataclass(frozen=True)
class Result:
    """What a run gives back to the program that started it."""

    transformer: CogVideoXTransformer3DModel
    """The trained model."""
    summary: dict[str, Any]
    """The content of summary.json."""


def train(job: TrainJob, folder: RunFolder, dataset: Dataset, checkpoint: CheckpointFolder | None) -> Result:
    """Prepares the data, trains, validates and exports. Of several processes, the first one writes.

    Args:
        job: the checked configuration.
        folder: where everything is written.
        dataset: the clips.
        checkpoint: the state to go on from.

    Raises:
        UserError: anything only the user can mend.
        Stopped: the run was asked to stop and has saved its state.
    """
    started = time.monotonic()
    stop = StopRequest(job.checkpoint.max_minutes)
    with explained_out_of_memory(job), stop.listening(), joined(job) as team:
        assert team.world == job.distributed.processes * job.distributed.nodes, "all of the processes are there"
        compute = choose_compute(local_device(job.device), job.model)
        check_devices(team, compute.device)
        set_tf32(job.allow_tf32)
        memory = MemoryLog(compute.device, team)
        trackers = Trackers(job, folder) if team.is_first else Trackers()
        if team.is_first:
            write_json(folder.path / "environment.json", environment(compute.device))
        data = prepare_data(job, dataset, compute, folder.faults, team)
        memory.record("encoding")
        with accelerator_for(compute) as accelerator:
            run = Context(job, folder, data, build_training(job, data, accelerator), memory, trackers)
            if checkpoint:
                run.training.resume(checkpoint)
            elif data.validator and isinstance(job.validation, Validation) and job.validation.baseline:
                run.sample(run.training.transformer, 0)
            memory.record("before_training")
            last = _train(run, stop)
            memory.record("before_validation")
        if last < run.training.steps:
            trackers.finish()
            raise Stopped(
                f"Stopped after step {last} of {run.training.steps}: {stop.reason}; resume=auto goes on from there"
            )
        exported = _export(run)
        if data.validator:
            _sample_from_export(run, exported)
            memory.record("after_testing")
        summary: dict[str, Any] = {}
        if team.is_first:
            summary = _finish(run, exported, time.monotonic() - started)
        return Result(run.training.transformer, team.exchange(summary)[0])


def set_tf32(allowed: bool) -> None:
    """Whether float32 products may use TensorFloat-32: cuDNN has a flag of its own, which is on by default."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


@contextmanager
def joined(job: TrainJob) -> Iterator[Team]:
    """Joins the processes that share the job, if there are others.

    After an error this process does not take leave of them: with nccl that waits for kernels, and those wait for the
    other processes, which may never come. It has to end for them to notice.
    """
    cuda = local_device(job.device) != "cpu" and torch.cuda.is_available()
    team = join_team(cuda, job.distributed.timeout or DEFAULT_TIMEOUT)
    console.quiet = not team.is_first
    yield team
    leave_team()


def _train(run: Context, stop: StopRequest) -> int:
    """The training loop with what happens between steps; returns the last step done."""
    job, training, folder = run.job, run.training, run.folder
    saver = CheckpointSaver(folder.checkpoints, job.checkpoint)
    actions = Actions(run, saver)
    writer = Metrics(folder.metrics, training.first_step, run.trackers.metrics) if run.team.is_first else NoMetrics()
    schedule = Schedule(
        first_step=training.first_step,
        steps=training.steps,
        accumulation=job.gradient_accumulation,
        max_grad_norm=job.max_grad_norm,
        seed=job.seed,
        team=run.team,
        wants_stop=stop,
        actions=actions.between_steps(),
        smoothed_loss=writer.last.get("loss_smoothed", 0.0),
    )
    try:
        with writer as metrics, stop.after_step():
            batches = training.batches(job, run.data)
            last = train_loop(training.state, batches, training.loss, metrics, schedule)
        if last < training.steps:
            actions.save(last)
    finally:
        saver.wait()
    saver.finish()
    training.seconds_for_checkpoints = {"waited": saver.seconds_waited, "writing": saver.seconds_writing}
    return last


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
    with training.state.averaged():
        complete = training.state.stepper.complete()
        if run.team.is_first:
            exported = str(export(complete, job.method, run.folder.export, compute.dtype, training.about))
    exported = run.team.exchange(exported)[0]
    if job.export.merge and run.team.is_first:
        host = Compute(torch.device("cpu"), compute.dtype)
        base = load_transformer(run.data.pipeline, host, job.task.name)
        export_merged(load_trained(base, Path(exported), host), run.folder.export, compute.dtype)
    return Path(exported)


def _sample_from_export(run: Context, exported: Path) -> None:
    """The last videos come from what was written, not from the model in memory, which makes room for it."""
    job, training, compute = run.job, run.training, run.data.compute
    training.transformer.to("cpu")
    training.state.stepper.forget_optimizer_state()
    release(compute.device)
    run.memory.record("export")  # what was there until now is no part of the next phase
    # A whole transformer needs no base; two of them would not fit where one was trained.
    transformer = (
        load_whole(exported, compute)
        if exported.is_dir()
        else load_trained(load_base(job, run.data), exported, compute)
    )
    arrange_blocks(transformer, job.memory, compute.device)
    recipe = Recipe(job.model, [exported], [1.0], [1.0])
    run.sample(transformer, training.steps, **recipe.about())


def _finish(run: Context, exported: Path, seconds: float) -> dict[str, Any]:
    """Sums the run up."""
    job, folder, training = run.job, run.folder, run.training
    lines = read_metrics(folder.metrics)
    if lines:  # else the run has only exported a checkpoint
        plot_loss(lines, folder.path / "loss.png", job.name)
    summary = _summary(job, lines, run.memory, exported, seconds)
    summary |= {"held_out": read_metrics(folder.held_out)[-1]} if training.held_out else {}
    summary["processes"] = run.team.world
    summary["checkpoint_seconds"] = {name: round(value, 3) for name, value in training.seconds_for_checkpoints.items()}
    summary["clips"] = run.data.encoded.dataset.describe()
    write_json(folder.path / "summary.json", summary)
    run.trackers.finish()
    write_status(folder, "finished", step=training.steps)
    draw_strip(folder)
    _say_result(folder, summary)
    if job.hub.push:
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
