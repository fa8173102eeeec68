"""One training run, from a checked job to a folder with its results."""

import math
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
from cogvx_exp.model.device import Compute, choose_compute, release
from cogvx_exp.model.load import load_trained, load_transformer
from cogvx_exp.tracking.environment import environment
from cogvx_exp.tracking.plot import plot_loss
from cogvx_exp.tracking.progress import console
from cogvx_exp.tracking.publish import publish
from cogvx_exp.tracking.run_folder import Metrics, RunFolder, read_metrics
from cogvx_exp.training.checkpoint_files import CheckpointFolder, remove_old_checkpoints, write_checkpoint
from cogvx_exp.training.export import export, export_merged
from cogvx_exp.training.loop import Action, Schedule, train_loop
from cogvx_exp.training.memory import MemoryLog
from cogvx_exp.training.setup import PreparedData, Training, build_training, load_base, prepare_data


@dataclass(frozen=True)
class Result:
    """What a run gives back to the program that started it."""

    transformer: CogVideoXTransformer3DModel
    """The trained model."""
    summary: dict[str, Any]
    """The content of summary.json."""


def train(job: TrainJob, folder: RunFolder, dataset: Dataset, checkpoint: CheckpointFolder | None) -> Result:
    """Prepares the data, trains, validates and exports.

    Args:
        job: the checked configuration.
        folder: where everything is written.
        dataset: the clips.
        checkpoint: the state to go on from.

    Raises:
        UserError: anything only the user can mend.
    """
    started = time.monotonic()
    compute = choose_compute(job.device, job.model)
    torch.backends.cuda.matmul.allow_tf32 = job.allow_tf32
    memory = MemoryLog(compute.device)
    write_json(folder.path / "environment.json", environment(compute.device))

    data = prepare_data(job, dataset, compute, folder.faults)
    memory.record("encoding")
    with accelerator_for(compute) as accelerator:
        training = build_training(job, data, accelerator)
        if checkpoint:
            training.resume(checkpoint)
        elif data.validator and isinstance(job.validation, Validation) and job.validation.baseline:
            data.validator.run(training.transformer, folder.validation(0), 0)
        memory.record("before_training")
        schedule = Schedule(
            first_step=training.first_step,
            steps=training.steps,
            accumulation=job.gradient_accumulation,
            max_grad_norm=job.max_grad_norm,
            seed=job.seed,
            actions=_actions(job, data, training, folder, memory),
        )
        batches = training.batches(job, data)
        with Metrics(folder.metrics, training.first_step) as metrics:
            train_loop(training.state, batches, training.loss, accelerator, metrics, schedule)
        memory.record("before_validation")

    with training.state.averaged():
        exported = export(training.transformer, job.method, folder.export, compute.dtype, training.about)
    if job.export.merge:
        host = Compute(torch.device("cpu"), compute.dtype)
        base = load_transformer(data.pipeline, host, job.task.name)
        export_merged(load_trained(base, exported, host), folder.export, compute.dtype)
    if data.validator:
        _sample_from_export(job, data, training, folder, exported)
        memory.record("after_testing")
    lines = read_metrics(folder.metrics)
    plot_loss(lines, folder.path / "loss.png", job.name)
    summary = _summary(job, lines, memory, exported, time.monotonic() - started)
    summary |= {"held_out": read_metrics(folder.held_out)[-1]} if training.held_out else {}
    summary["clips"] = data.encoded.dataset.describe()
    write_json(folder.path / "summary.json", summary)
    _say_result(folder, summary)
    if job.hub.push:
        gathered = publish(job, folder, training.about)
        done = "Would be pushed" if job.hub.dry_run else f"Pushed to {job.hub.repo}"
        console.print(f"{done}: {gathered}", soft_wrap=True)
    return Result(training.transformer, summary)


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


def _actions(
    job: TrainJob, data: PreparedData, training: Training, folder: RunFolder, memory: MemoryLog
) -> list[Action]:
    """What happens between steps: checkpoints first, so that a crash while sampling loses nothing."""

    def save(step: int) -> None:
        about = {"step": step, "batches": step * job.gradient_accumulation, "config": job.model_dump(mode="json")}
        write_checkpoint(folder.checkpoint(step), training.state.save, about)
        remove_old_checkpoints(folder.checkpoints, job.checkpoint.keep)

    def measure(step: int) -> None:
        assert training.held_out
        with training.state.averaged():
            losses = training.held_out.measure(training.transformer, training.loss)
        with Metrics(folder.held_out, step - 1) as held_out:
            held_out.write(step=step, **losses)
        console.print(f"Held-out loss at step {step}: {losses['loss']:.4f}")

    def validate(step: int) -> None:
        assert data.validator
        memory.record("before_validation")
        with training.state.averaged():
            data.validator.run(training.transformer, folder.validation(step), step)
        memory.record("after_validation")

    actions = [Action(save, job.checkpoint.every)]
    if isinstance(job.validation, Validation):
        if training.held_out:
            actions.append(Action(measure, job.validation.loss_every))
        steps_per_epoch = math.ceil(training.stream.batches_per_epoch / job.gradient_accumulation)
        epochs = job.validation.every_epochs
        every = epochs * steps_per_epoch if epochs else job.validation.every
        actions.append(Action(validate, every, at_end=False))  # then the export is sampled from
    return actions


def _sample_from_export(
    job: TrainJob, data: PreparedData, training: Training, folder: RunFolder, exported: Path
) -> None:
    """The last videos come from what was written, not from the model in memory, which makes room for it."""
    assert data.validator
    training.transformer.to("cpu")
    training.state.optimizer.state.clear()
    release(data.compute.device)
    transformer = load_trained(load_base(job, data), exported, data.compute)
    arrange_blocks(transformer, job.memory, data.compute.device)
    recipe = Recipe(job.model, [exported], [1.0], [1.0])
    data.validator.run(transformer, folder.validation(training.steps), training.steps, **recipe.about())


def _summary(
    job: TrainJob, lines: list[dict[str, Any]], memory: MemoryLog, exported: Path, seconds: float
) -> dict[str, Any]:
    tail = lines[-max(len(lines) // 10, 1) :]
    return {
        "name": job.name,
        "status": "finished",
        "steps": lines[-1]["step"],
        "loss_last_tenth": sum(line["loss"] for line in tail) / len(tail),
        "seconds": round(seconds, 1),
        "seconds_per_step": round(float(np.median([line["step_seconds"] for line in lines])), 4),
        "memory": memory.phases,
        "memory_figures": memory.figures(),
        "export": str(exported),
    }


def _say_result(folder: RunFolder, summary: dict[str, Any]) -> None:
    console.print(f"\nDone in {summary['seconds']:.0f} s, {summary['seconds_per_step']:.2f} s a step")
    figures = "  ".join(f"{name.replace('_', ' ')} {size:.2f}" for name, size in summary["memory_figures"].items())
    console.print(f"Memory, GiB at most:  {figures}", soft_wrap=True)
    results = {
        "loss": folder.path / "loss.png",
        "videos": folder.path / "validation",
        "checkpoints": folder.checkpoints,
        "export": Path(summary["export"]),
        "summary": folder.path / "summary.json",
    }
    for label, path in results.items():
        if path.exists():
            console.print(f"  {label:<12} {path}", soft_wrap=True)
    console.print(f"Sample from it:  python -m cogvx_exp.generate generate.adapter={folder.path}", soft_wrap=True)
