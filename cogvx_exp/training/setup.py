"""Builds what the loop works on: the encoded data, the trainable model, the order of the batches."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from diffusers import CogVideoXTransformer3DModel

from cogvx_exp.config.schema import TrainJob, Validation
from cogvx_exp.data.dataset import Clip, Dataset
from cogvx_exp.data.encoded import EncodedDataset, encode_dataset
from cogvx_exp.data.online import online_batches
from cogvx_exp.data.prepare import Encoder, load_embeds
from cogvx_exp.data.sampler import BatchStream
from cogvx_exp.data.samples import Batch, LatentSpace, TrainingSamples, cached_batches
from cogvx_exp.diffusion.denoise import Loss, denoising_loss
from cogvx_exp.errors import UserError
from cogvx_exp.evaluation.sampling import split_prompts, video_requests
from cogvx_exp.evaluation.validation import Validator
from cogvx_exp.files import read_json
from cogvx_exp.model.adapt import add_adapter, trainable_parameters
from cogvx_exp.model.device import Compute
from cogvx_exp.model.load import load_scheduler, load_transformer, pipeline_folder
from cogvx_exp.tracking.progress import console
from cogvx_exp.training.checkpoint import TrainingState
from cogvx_exp.training.checkpoint_files import CheckpointFolder
from cogvx_exp.training.optimizer import build_lr_scheduler, build_optimizer


@dataclass(frozen=True)
class PreparedData:
    """The dataset as the loop reads it; no encoder is in memory any more."""

    encoder: Encoder
    encoded: EncodedDataset
    validator: Validator | None

    @property
    def pipeline(self) -> Path:
        """Folder of the model's pipeline."""
        return self.encoder.folder

    @property
    def compute(self) -> Compute:
        """Where and in which type the run computes."""
        return self.encoder.compute

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
    first_step: int = 0
    """Steps that are already done."""

    def resume(self, checkpoint: CheckpointFolder) -> None:
        """Takes over a checkpoint's state and its position in the data."""
        self.state.load(checkpoint.path)
        self.stream.start = checkpoint.manifest["batches"]
        self.first_step = checkpoint.step
        console.print(f"Going on from step {self.first_step} ({checkpoint.path})", soft_wrap=True)

    def batches(self, job: TrainJob, data: PreparedData) -> Iterator[Batch]:
        """The batches from the current position on."""
        if job.data.encode == "online":
            return online_batches(self.samples, self.stream, data.clips, job.data, data.encoder)
        return cached_batches(self.samples, self.stream, job.data, data.compute.device)


def prepare_data(job: TrainJob, dataset: Dataset, compute: Compute, faults: Path) -> PreparedData:
    """Fills the cache with everything the run will read.

    Args:
        job: the checked configuration.
        dataset: the clips.
        compute: where and in which type the run computes.
        faults: file for the faults that encoding finds.

    Raises:
        UserError: the data or the model cannot be used.
    """
    console.print(dataset.describe())
    pipeline = pipeline_folder(job.model, job.cache_dir)
    encoder = Encoder(pipeline, compute, job.memory, job.cache_dir)
    validation = job.validation if isinstance(job.validation, Validation) else None
    prompts = _prompts(validation, dataset.clips) if validation else []
    texts = [validation.negative_prompt, *prompts] if validation else []
    encoded = encode_dataset(dataset, job.data, encoder, texts, faults)
    validator = None
    if validation:
        embeds = dict(zip(texts, load_embeds(texts, encoded.text_keys, encoder.cache), strict=True))
        requests = video_requests(validation, prompts, validation.num_videos)
        validator = Validator(requests, embeds, job.model, pipeline, compute, job.memory)
    return PreparedData(encoder, encoded, validator)


def build_training(job: TrainJob, data: PreparedData, accelerator: Accelerator) -> Training:
    """Loads the transformer, makes it trainable, and builds everything that moves it.

    Raises:
        UserError: the settings do not fit the model or the data.
    """
    stream = _stream(job, data.encoded.dataset)
    steps = job.steps
    if job.epochs is not None:
        steps = math.ceil(job.epochs * stream.batches_per_epoch / job.gradient_accumulation)

    transformer = load_transformer(data.pipeline, data.compute, job.task.name)
    add_adapter(transformer, job.method, job.seed)
    transformer.train()
    if job.memory.activations == "checkpoint":
        transformer.enable_gradient_checkpointing()
    parameters = trainable_parameters(transformer)
    optimizer = build_optimizer(parameters.values(), job.optim)
    lr_scheduler = build_lr_scheduler(optimizer, job.lr_scheduler, steps)
    state = TrainingState(transformer, accelerator.prepare(optimizer), lr_scheduler, accelerator)

    trained = sum(parameter.numel() for parameter in parameters.values())
    everything = sum(parameter.numel() for parameter in transformer.parameters())
    console.print(f"Training {trained:,} of {everything:,} parameters of {job.model.name} for {steps} steps")

    config = dict(transformer.config)
    noise_schedule = load_scheduler(data.pipeline, job.model.sampling.scheduler).alphas_cumprod
    space = LatentSpace(
        scaling_factor=read_json(data.pipeline / "vae" / "config.json")["scaling_factor"],
        patch_size_t=config["patch_size_t"],
        num_train_timesteps=len(noise_schedule),
    )
    return Training(
        transformer=transformer,
        state=state,
        loss=denoising_loss(noise_schedule.to(data.compute.device), config, data.compute.dtype),
        samples=TrainingSamples(data.encoded.training, space, job.data, job.seed),
        stream=stream,
        steps=steps,
    )


def _prompts(validation: Validation, clips: list[Clip]) -> list[str]:
    if validation.prompts is None:
        return [clips[0].row.captions[0]]
    return split_prompts(validation.prompts, validation.separator)


def _stream(job: TrainJob, dataset: Dataset) -> BatchStream:
    buckets = {bucket: number for number, bucket in enumerate(dataset.bucket_counts())}
    drop = job.data.remainder == "drop"
    stream = BatchStream(
        np.array([buckets[clip.bucket] for clip in dataset.clips]),
        np.array([clip.source for clip in dataset.clips]),
        dataset.rates,
        batch_size=job.batch_size,
        seed=job.seed,
        drop_remainder=drop,
    )
    if stream.batches_per_epoch == 0:
        raise UserError(f"no bucket has batch_size={job.batch_size} clips; use a smaller one or data.remainder=pad")
    if stream.repeated or stream.dropped:
        what = f"samples left out: {stream.dropped}" if drop else f"samples added to fill batches: {stream.repeated}"
        console.print(f"In every epoch, {what} (data.remainder={job.data.remainder})")
    return stream
