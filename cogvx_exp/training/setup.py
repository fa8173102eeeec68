"""Builds what the loop works on: the encoded data, the trainable model, the order of the batches."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from diffusers import CogVideoXTransformer3DModel

from cogvx_exp.config.schema import TrainJob, Validation
from cogvx_exp.data.cache import TensorCache
from cogvx_exp.data.manifest import Clip, bucket_counts, load_clips
from cogvx_exp.data.prepare import Encoder, load_embeds, prepare_captions, prepare_videos
from cogvx_exp.data.sampler import BatchStream
from cogvx_exp.data.samples import Batch, EncodedClips, LatentSpace, TrainingSamples, batches
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
class EncodedData:
    """The dataset as the loop reads it; no encoder is in memory any more."""

    pipeline: Path
    """Folder of the model's pipeline."""
    compute: Compute
    clips: list[Clip]
    encoded: EncodedClips
    validator: Validator | None


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

    def batches(self, job: TrainJob, compute: Compute) -> Iterator[Batch]:
        """The batches from the current position on."""
        return batches(self.samples, self.stream, job.data, compute.device)


def encode_data(job: TrainJob, compute: Compute) -> EncodedData:
    """Reads the dataset and fills the cache with everything the run will read.

    Raises:
        UserError: the data or the model cannot be used.
    """
    clips = load_clips(job.data)
    buckets = ", ".join(f"{count} of {bucket}" for bucket, count in bucket_counts(clips).items())
    console.print(f"{len(clips)} clips (frames x height x width): {buckets}")
    pipeline = pipeline_folder(job.model, job.cache_dir)
    encoder = Encoder(pipeline, compute, job.memory, TensorCache(job.cache_dir / "encoded"))

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
    validator = None
    if validation:
        embeds = dict(zip(texts, load_embeds(texts, keys, encoder.cache), strict=True))
        requests = video_requests(validation, prompts, validation.num_videos)
        validator = Validator(requests, embeds, job.model, pipeline, compute, job.memory)
    return EncodedData(pipeline, compute, clips, encoded, validator)


def build_training(job: TrainJob, data: EncodedData, accelerator: Accelerator) -> Training:
    """Loads the transformer, makes it trainable, and builds everything that moves it.

    Raises:
        UserError: the settings do not fit the model or the data.
    """
    stream = _stream(job, data.clips)
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
        samples=TrainingSamples(data.encoded, space, caption_dropout=job.data.caption_dropout, seed=job.seed),
        stream=stream,
        steps=steps,
    )


def _prompts(validation: Validation, captions: list[str]) -> list[str]:
    if validation.prompts is None:
        return captions[:1]
    return split_prompts(validation.prompts, validation.separator)


def _stream(job: TrainJob, clips: list[Clip]) -> BatchStream:
    buckets = list(bucket_counts(clips))
    numbers = np.array([buckets.index(clip.bucket) for clip in clips])
    drop = job.data.remainder == "drop"
    stream = BatchStream(numbers, batch_size=job.batch_size, seed=job.seed, drop_remainder=drop)
    if stream.batches_per_epoch == 0:
        raise UserError(f"no bucket has batch_size={job.batch_size} clips; use a smaller one or data.remainder=pad")
    if stream.repeated or stream.dropped:
        what = f"clips left out: {stream.dropped}" if drop else f"clips seen twice: {stream.repeated}"
        console.print(f"In every epoch, {what} (data.remainder={job.data.remainder})")
    return stream
