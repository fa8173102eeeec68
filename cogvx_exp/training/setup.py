"""Builds the inputs of the loop: encoded data, trainable model, batch order."""

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import CogVideoXTransformer3DModel

from cogvx_exp.config.rules.notes import warmup_note
from cogvx_exp.config.schema import TrainJob, Validation
from cogvx_exp.console.progress import console
from cogvx_exp.core.files import read_json
from cogvx_exp.data.dataset import Clip, Dataset
from cogvx_exp.diffusion.batch import Batch
from cogvx_exp.diffusion.denoise import Loss, denoising_loss
from cogvx_exp.diffusion.latents import LatentSpace
from cogvx_exp.diffusion.objective import build_objective
from cogvx_exp.distributed.process_group import ProcessGroup
from cogvx_exp.evaluation.held_out import SEED as HELD_OUT_SEED
from cogvx_exp.evaluation.held_out import HeldOutLoss, fixed_timesteps
from cogvx_exp.evaluation.requests import given_conditions, validation_prompts
from cogvx_exp.evaluation.sampling import video_requests
from cogvx_exp.evaluation.scores.read_clips import read_clips
from cogvx_exp.evaluation.validation import Validator, validation_scores
from cogvx_exp.latents.captions import load_embeds
from cogvx_exp.latents.context import PipelineContext
from cogvx_exp.latents.dataset import EncodedDataset, encode_dataset
from cogvx_exp.loading.condition import conditioned
from cogvx_exp.loading.data_loader import Wait, cached_batches
from cogvx_exp.loading.online import online_batches
from cogvx_exp.loading.prefetch import on_device
from cogvx_exp.loading.sampler import BatchStream
from cogvx_exp.loading.samples import TrainingSamples
from cogvx_exp.loading.stream import batch_stream
from cogvx_exp.model.adapt import trained_dtype
from cogvx_exp.model.device import Compute
from cogvx_exp.model.load import load_scheduler, pipeline_folder
from cogvx_exp.optim.build import build_optimizer
from cogvx_exp.optim.lr_scheduler import build_lr_scheduler
from cogvx_exp.runs.checkpoint_folder import CheckpointFolder
from cogvx_exp.strategies.build import build_strategy
from cogvx_exp.strategies.ema import Ema
from cogvx_exp.tasks.base import build_task
from cogvx_exp.training.checkpoint.resuming import (
    batches_done,
    changes_around,
    print_resumed,
    refuse_too_few_to_profile,
    run_steps,
)
from cogvx_exp.training.checkpoint.state import TrainingState
from cogvx_exp.training.model import load_trainable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedData:
    """The encoded dataset; no encoder is in memory any more."""

    context: PipelineContext
    encoded: EncodedDataset
    validator: Validator | None

    @property
    def pipeline(self) -> Path:
        """Folder of the model's pipeline."""
        return self.context.folder

    @property
    def compute(self) -> Compute:
        """Device and dtype of the run."""
        return self.context.compute

    @property
    def processes(self) -> ProcessGroup:
        """The processes that train together."""
        return self.context.processes

    @property
    def clips(self) -> list[Clip]:
        """The training clips."""
        return self.encoded.dataset.clips


@dataclass
class Training:
    """A model ready to train."""

    transformer: CogVideoXTransformer3DModel
    state: TrainingState
    loss: Loss
    samples: TrainingSamples
    stream: BatchStream
    steps: int
    """Optimizer steps of the whole run."""
    positions_dropped: bool
    """Whether the model's learned positions were removed."""
    held_out: HeldOutLoss | None = None
    first_step: int = 0
    """Completed steps."""
    first_batch: int = 0
    """Completed batches, over all processes."""
    seconds_for_checkpoints: dict[str, float] = field(default_factory=dict)
    """Time that training waited for checkpoints, and time spent writing them."""

    def batches_done(self, step: int, batches_per_step: int) -> int:
        """Completed batches after a step, over all processes."""
        return self.first_batch + (step - self.first_step) * batches_per_step

    @property
    def about(self) -> dict[str, Any]:
        """Information, besides the weights, needed to use the result."""
        dropped = {"learned_positions": "dropped"} if self.positions_dropped else {}
        return dropped | self.samples.task.about(self.transformer.config)

    def resume(self, checkpoint: CheckpointFolder, dataset: Dataset) -> None:
        """Loads a checkpoint's state and position in the data; prints what has changed.

        Raises:
            UserError: the checkpoint's weights do not match the model.
        """
        notes = self.state.load(checkpoint)
        self.first_batch = self.stream.start = batches_done(checkpoint, self.stream.batch_size)
        self.first_step = checkpoint.step
        print_resumed(checkpoint, notes + changes_around(checkpoint, self.stream.world_size, dataset), self.steps)

    def batches(self, job: TrainJob, data: PreparedData, wait: Wait = nullcontext) -> Iterator[Batch]:
        """The batches of the steps that remain; `wait` is entered while waiting for one."""
        if job.data.encode == "online":
            batches = online_batches(self.samples, self.stream, data.clips, job.data, data.context)
        else:
            batches = cached_batches(self.samples, self.stream, job.data, data.compute.device, wait)
        count = (self.steps - self.first_step) * job.gradient_accumulation
        return conditioned(on_device(batches, data.compute.device, count), data.context)


def prepare_data(
    job: TrainJob, dataset: Dataset, compute: Compute, issues: Path, processes: ProcessGroup
) -> PreparedData:
    """Fills the cache with everything the run will read.

    Args:
        job: the checked configuration.
        dataset: the clips.
        compute: device and dtype.
        issues: file for issues found during encoding.
        processes: the processes that share the work.

    Raises:
        UserError: the data or the model cannot be used.
    """
    build_objective(job.objective)  # reports functions that cannot be imported before anything is encoded
    console.print(dataset.describe())
    if not processes.is_main_process:
        processes.barrier()  # wait while the first process downloads or builds the model
    pipeline = pipeline_folder(job.model, job.cache_dir)
    logger.info("%s, computing in %s, pipeline %s", compute.device, compute.dtype, pipeline)
    if processes.is_main_process:
        processes.barrier()
    context = PipelineContext(
        pipeline,
        compute,
        job.memory,
        job.cache_dir,
        build_task(job.task),
        processes=processes,
    )
    validation = job.validation if isinstance(job.validation, Validation) else None
    # Held-out clips first: their captions and first frames show more than those that were trained on.
    shown = [*dataset.held_out, *dataset.clips]
    prompts = validation_prompts(validation, shown) if validation else []
    texts = [validation.negative_prompt, *prompts] if validation else []
    requests, scores = [], {}
    if validation:
        given = given_conditions(job, context.task, shown, len(prompts))
        requests = video_requests(validation, prompts, validation.num_videos, given, job.data.reshape)
        scores = validation_scores(job, requests, dataset.clips)
    encoded = encode_dataset(dataset, job.data, context, texts, issues)
    validator = None
    if validation:
        # Read now, a few MiB each, so that a validation in hours does not depend on the cache.
        embeds = dict(zip(texts, load_embeds(texts, encoded.text_keys, context.cache), strict=True))
        clips = None
        if any("clips" in score.asks for score in scores.values()):
            clips = read_clips(encoded.dataset.clips, job.data, context)
        validator = Validator(requests, embeds, job.model, context, validation.offload, scores, clips)
    return PreparedData(context, encoded, validator)


def build_training(
    job: TrainJob, data: PreparedData, accelerator: Accelerator, checkpoint: CheckpointFolder | None = None
) -> Training:
    """Loads the transformer, makes it trainable, builds optimizer and schedule, and loads the checkpoint.

    Raises:
        UserError: the settings do not fit the model, the data or the checkpoint.
    """
    stream = batch_stream(job, data.encoded.dataset, data.processes)
    batches_per_step = job.gradient_accumulation * data.processes.world_size
    steps = run_steps(job, stream.batches_per_epoch, batches_per_step, checkpoint)
    refuse_too_few_to_profile(job, steps, checkpoint)
    note = warmup_note(job.lr_scheduler, steps) if job.epochs else None
    if note:
        console.warn(f"Note: {note}")

    how, dtype = job.distributed.name, trained_dtype(job.optim)
    transformer, positions_dropped = load_trainable(job, data.context, data.clips, steps)

    def make_optimizer(parameters: dict[str, torch.nn.Parameter]) -> torch.optim.Optimizer:
        samples_per_step = job.batch_size * batches_per_step
        return build_optimizer(parameters, job.optim, data.compute.device, samples_per_step)

    strategy = build_strategy(how, transformer, make_optimizer, accelerator, dtype)
    logger.info("strategy %s, %s; trained in %s", how, type(strategy).__name__, dtype)
    logger.info("memory options: %s", job.memory)
    schedule = partial(build_lr_scheduler, strategy.optimizer, job.lr_scheduler, steps)
    ema = Ema(strategy, job.ema_decay) if job.ema_decay else None
    state = TrainingState(strategy, job.optim, schedule, ema)

    config = dict(transformer.config)
    scheduler = load_scheduler(data.pipeline, job.model.sampling.scheduler)
    # On the device, as it is indexed by each batch's timesteps.
    noise_schedule, objective = scheduler.alphas_cumprod.to(data.compute.device), build_objective(job.objective)
    space = LatentSpace(
        scaling_factor=read_json(data.pipeline / "vae" / "config.json")["scaling_factor"],
        patch_size_t=config["patch_size_t"],
        num_train_timesteps=len(noise_schedule),
    )
    training = Training(
        transformer=transformer,
        state=state,
        loss=denoising_loss(noise_schedule, config, data.compute.dtype, objective),
        samples=TrainingSamples(
            data.encoded.training, space, job.data, data.context.task, job.seed, objective.timesteps
        ),
        stream=stream,
        steps=steps,
        positions_dropped=positions_dropped,
        held_out=_held_out(job, data, space, denoising_loss(noise_schedule, config, data.compute.dtype)),
    )
    if checkpoint:
        training.resume(checkpoint, data.encoded.dataset)
    return training


def _held_out(job: TrainJob, data: PreparedData, space: LatentSpace, loss: Loss) -> HeldOutLoss | None:
    """The held-out loss, if there are held-out clips. It does not depend on the objective."""
    if not data.encoded.held_out.names:
        return None
    # Nothing random may differ between two measurements.
    plain = job.data.model_copy(update={"caption_dropout": 0.0, "random_flip": 0.0})
    samples = TrainingSamples(data.encoded.held_out, space, plain, data.context.task.without_dropout(), HELD_OUT_SEED)
    timesteps = fixed_timesteps(job.validation.loss_timesteps, space.num_train_timesteps)
    return HeldOutLoss(samples, data.encoded.held_out, data.context, timesteps, loss)
