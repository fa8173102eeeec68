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
from diffusers import CogVideoXTransformer3DModel

from cogvx_exp.config.schema import TrainJob, Validation
from cogvx_exp.data.cache import TensorCache
from cogvx_exp.data.manifest import Clip, bucket_counts, load_clips
from cogvx_exp.data.prepare import Encoder, load_embeds, prepare_captions, prepare_videos
from cogvx_exp.data.sampler import BatchStream
from cogvx_exp.data.samples import EncodedClips, LatentSpace, TrainingSamples, batches
from cogvx_exp.diffusion.denoise import denoising_loss
from cogvx_exp.errors import UserError
from cogvx_exp.evaluation.sampling import split_prompts, video_requests
from cogvx_exp.evaluation.validation import Validator
from cogvx_exp.files import read_json, write_json
from cogvx_exp.model.adapt import add_adapter, trainable_parameters
from cogvx_exp.model.device import choose_compute
from cogvx_exp.model.load import load_scheduler, load_transformer, pipeline_folder
from cogvx_exp.tracking.environment import environment
from cogvx_exp.tracking.plot import plot_loss
from cogvx_exp.tracking.progress import console
from cogvx_exp.tracking.run_folder import Metrics, RunFolder, read_metrics
from cogvx_exp.training.checkpoint import TrainingState
from cogvx_exp.training.checkpoint_files import CheckpointFolder, remove_old_checkpoints, write_checkpoint
from cogvx_exp.training.export import export_adapter
from cogvx_exp.training.loop import Schedule, train_loop
from cogvx_exp.training.memory import MemoryLog
from cogvx_exp.training.optimizer import build_lr_scheduler, build_optimizer


@dataclass(frozen=True)
class Result:
    """What a run gives back to the program that started it."""

    transformer: CogVideoXTransformer3DModel
    """The trained model."""
    summary: dict[str, Any]
    """The content of summary.json."""


def train(job: TrainJob, folder: RunFolder, checkpoint: CheckpointFolder | None) -> Result:
    """Prepares the data, trains, validates and exports.

    Args:
        job: the checked configuration.
        folder: where everything is written.
        checkpoint: the state to go on from.

    Raises:
        UserError: anything only the user can mend.
    """
    started = time.monotonic()
    compute = choose_compute(job.device, job.model)
    torch.backends.cuda.matmul.allow_tf32 = job.allow_tf32
    memory = MemoryLog(compute.device)
    write_json(folder.path / "environment.json", environment(compute.device))

    clips = load_clips(job.data)
    _say_buckets(clips)
    pipeline = pipeline_folder(job.model, job.cache_dir)
    encoder = Encoder(pipeline, compute, job.memory, TensorCache(job.cache_dir / "encoded"))
    encoded, validator = _encode(job, clips, encoder)
    memory.record("after_encoding")

    with _accelerator(compute.device, compute.mixed_precision) as accelerator:
        transformer = load_transformer(pipeline, compute, job.task.name)
        state, stream, steps = _prepare_training(job, transformer, clips, accelerator)
        first_step = checkpoint.step if checkpoint else 0
        if checkpoint:
            state.load(checkpoint.path)
            stream.start = first_step * job.gradient_accumulation
        memory.record("before_training")

        if validator and job.validation.baseline and not checkpoint:
            validator.run(transformer, folder.validation(0), 0)
        schedule = Schedule(
            first_step=first_step,
            steps=steps,
            accumulation=job.gradient_accumulation,
            max_grad_norm=job.max_grad_norm,
            seed=job.seed,
            actions=_actions(job, state, validator, folder, stream, memory),
        )
        noise_schedule = load_scheduler(pipeline, job.model.sampling.scheduler).alphas_cumprod
        config = dict(transformer.config)
        loss = denoising_loss(noise_schedule.to(compute.device), config, compute.dtype)
        samples = _samples(job, encoded, pipeline, config, noise_schedule)
        with Metrics(folder.metrics, first_step) as metrics:
            train_loop(state, batches(samples, stream, job.data, compute.device), loss, accelerator, metrics, schedule)
        memory.record("after_training")

    exported = export_adapter(transformer, folder.export)
    lines = read_metrics(folder.metrics)
    plot_loss(lines, folder.path / "loss.png", job.name)
    summary = _summary(job, lines, memory, exported, time.monotonic() - started)
    write_json(folder.path / "summary.json", summary)
    _say_result(folder, summary)
    return Result(transformer, summary)


def _say_buckets(clips: list[Clip]) -> None:
    buckets = ", ".join(f"{count} of {bucket}" for bucket, count in bucket_counts(clips).items())
    console.print(f"{len(clips)} clips (frames x height x width): {buckets}")


def _encode(job: TrainJob, clips: list[Clip], encoder: Encoder) -> tuple[EncodedClips, Validator | None]:
    """Fills the cache with everything the run will read; afterwards no encoder is in memory."""
    captions = [clip.row.caption for clip in clips]
    validation = job.validation if isinstance(job.validation, Validation) else None
    prompts = _prompts(validation, captions) if validation else []
    texts = [validation.negative_prompt, *prompts] if validation else []
    keys = prepare_captions([*captions, "", *texts], encoder)
    encoded = EncodedClips(
        cache=encoder.cache,
        videos=prepare_videos(clips, job.data, encoder),
        captions=[keys[caption] for caption in captions],
        no_caption=keys[""],
        names=[str(clip.row.path) for clip in clips],
    )
    if not validation:
        return encoded, None
    embeds = dict(zip(texts, load_embeds(texts, keys, encoder.cache), strict=True))
    requests = video_requests(validation, prompts, validation.num_videos)
    return encoded, Validator(requests, embeds, job.model, encoder.folder, encoder.compute, job.memory)


def _prompts(validation: Validation, captions: list[str]) -> list[str]:
    if validation.prompts is None:
        return captions[:1]
    return split_prompts(validation.prompts, validation.separator)


@contextmanager
def _accelerator(device: torch.device, mixed_precision: str) -> Iterator[Accelerator]:
    """An Accelerator whose process-wide state ends with the run, so that the next job can choose its own."""
    try:
        yield Accelerator(cpu=device.type == "cpu", mixed_precision=mixed_precision)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def _prepare_training(
    job: TrainJob, transformer: CogVideoXTransformer3DModel, clips: list[Clip], accelerator: Accelerator
) -> tuple[TrainingState, BatchStream, int]:
    """Makes the model trainable; builds the optimizer, its schedule and the order of the data."""
    add_adapter(transformer, job.method, job.seed)
    transformer.train()
    if job.memory.activations == "checkpoint":
        transformer.enable_gradient_checkpointing()
    stream = _stream(job, clips)
    steps = job.steps
    if job.epochs is not None:
        steps = math.ceil(job.epochs * stream.batches_per_epoch / job.gradient_accumulation)
    parameters = trainable_parameters(transformer)
    optimizer = build_optimizer(parameters.values(), job.optim)
    lr_scheduler = build_lr_scheduler(optimizer, job.lr_scheduler, steps)
    count = sum(parameter.numel() for parameter in parameters.values())
    console.print(f"Training {count:,} of {transformer.num_parameters():,} parameters of {job.model.name} for {steps} steps")
    state = TrainingState(transformer, accelerator.prepare(optimizer), lr_scheduler, accelerator)
    return state, stream, steps


def _stream(job: TrainJob, clips: list[Clip]) -> BatchStream:
    buckets = list(bucket_counts(clips))
    numbers = np.array([buckets.index(clip.bucket) for clip in clips])
    drop = job.data.remainder == "drop"
    stream = BatchStream(numbers, batch_size=job.batch_size, seed=job.seed, drop_remainder=drop)
    if stream.batches_per_epoch == 0:
        raise UserError(f"no bucket has batch_size={job.batch_size} clips; use a smaller one or data.remainder=pad")
    if stream.repeated or stream.dropped:
        what = f"{stream.dropped} clips are left out" if drop else f"{stream.repeated} clips are seen twice"
        console.print(f"In every epoch {what} (data.remainder={job.data.remainder})")
    return stream


def _samples(
    job: TrainJob, encoded: EncodedClips, pipeline: Path, config: dict[str, Any], noise_schedule: torch.Tensor
) -> TrainingSamples:
    space = LatentSpace(
        scaling_factor=read_json(pipeline / "vae" / "config.json")["scaling_factor"],
        patch_size_t=config["patch_size_t"],
        num_train_timesteps=len(noise_schedule),
    )
    return TrainingSamples(encoded, space, caption_dropout=job.data.caption_dropout, seed=job.seed)


def _actions(
    job: TrainJob,
    state: TrainingState,
    validator: Validator | None,
    folder: RunFolder,
    stream: BatchStream,
    memory: MemoryLog,
) -> list[Any]:
    """What happens between steps: checkpoints first, so that a crash while sampling loses nothing."""

    def save(step: int) -> None:
        about = {"step": step, "batches": step * job.gradient_accumulation, "config": job.model_dump(mode="json")}
        write_checkpoint(folder.checkpoint(step), state.save, about)
        remove_old_checkpoints(folder.checkpoints, job.checkpoint.keep)

    actions: list[Any] = [(job.checkpoint.every, save)]
    if validator and isinstance(job.validation, Validation):

        def validate(step: int) -> None:
            memory.record("before_validation")
            validator.run(state.transformer, folder.validation(step), step)
            memory.record("after_validation")

        per_epoch = math.ceil(stream.batches_per_epoch / job.gradient_accumulation)
        epochs = job.validation.every_epochs
        actions.append((epochs * per_epoch if epochs else job.validation.every, validate))
    return actions


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
        "export": str(exported),
    }


def _say_result(folder: RunFolder, summary: dict[str, Any]) -> None:
    run = folder.path
    console.print(f"\nDone in {summary['seconds']:.0f} s, {summary['seconds_per_step']:.2f} s a step")
    rows = {
        "loss": run / "loss.png",
        "videos": run / "validation",
        "checkpoints": folder.checkpoints,
        "LoRA": summary["export"],
        "summary": run / "summary.json",
    }
    for label, path in rows.items():
        if Path(path).exists():
            console.print(f"  {label:<12} {path}", soft_wrap=True)
    console.print(f"Sample from it:  python -m cogvx_exp.generate generate.adapter={run}", soft_wrap=True)


