"""The work of an optimizer step, independent of the card: operations, bytes, copies."""

from dataclasses import dataclass
from typing import Literal

import torch

from cogvx_exp.config.schema import TrainJob, Validation
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.estimate.time.flops import FlopCount, Flops, Shape
from cogvx_exp.estimate.trace.encoders import vae_pass
from cogvx_exp.estimate.trace.fake_models import architecture_of, fake_transformer
from cogvx_exp.estimate.trace.traffic import PassTraffic, Traffic, pass_traffic
from cogvx_exp.model.adapt import trained_dtype
from cogvx_exp.model.device import resolve_dtype
from cogvx_exp.tasks.base import build_task


@dataclass(frozen=True)
class Work:
    """Work of one process in an optimizer step or in sampling a video."""

    flops: Flops
    convolutions: float = 0.0
    """Operations of the VAE."""
    elementwise: float = 0.0
    """Bytes read and written by operations other than products and attention."""
    operators: float = 0.0
    """Number of operations launched by the host."""
    optimizer: float = 0.0
    """Bytes of the optimizer step on the device."""
    on_host: float = 0.0
    """Bytes of the optimizer step on the host."""
    exchanged: float = 0.0
    """Bytes copied between host and device without overlap: gradients and weights of an offloaded optimizer."""
    copied: float = 0.0
    """Bytes copied during computation: streamed weights, offloaded activations, gradients offloaded early."""


@dataclass(frozen=True)
class JobWork:
    """Work of a whole job."""

    step: Work
    """One optimizer step."""
    video: Work | None
    """Sampling a video of the validation."""
    videos: int
    """Number of videos sampled during the run."""


def shape_of(job: TrainJob, bucket: Bucket, clips: int) -> Shape:
    """The shape of a batch's latents."""
    vae, transformer = job.model.vae, job.model.transformer
    frames = (bucket.num_frames - 1) // vae.temporal_compression_ratio + 1
    frames += -frames % (transformer.patch_size_t or 1)
    height, width = (side // vae.spatial_compression_ratio for side in (bucket.height, bucket.width))
    return Shape(clips, frames, height, width, transformer.max_text_seq_length)


def flop_count(job: TrainJob, bucket: Bucket) -> FlopCount:
    """The operation counter for a job."""
    return _count(job, _parameters(job, bucket))


def step_work(job: TrainJob, bucket: Bucket) -> Work:
    """The work of an optimizer step with clips of one shape."""
    parameters, traffic = _parameters(job, bucket), pass_traffic(job, bucket)
    return _step(job, bucket, parameters, _count(job, parameters), traffic)


def job_work(job: TrainJob, bucket: Bucket) -> JobWork:
    """The work of a job with clips of one shape."""
    parameters, traffic = _parameters(job, bucket), pass_traffic(job, bucket)
    count = _count(job, parameters)
    step = _step(job, bucket, parameters, count, traffic)
    if not isinstance(job.validation, Validation):
        return JobWork(step, None, 0)
    return JobWork(step, _video(job, job.validation, count, traffic.forward, bucket), _videos(job, job.validation))


def _parameters(job: TrainJob, bucket: Bucket) -> dict[str, torch.nn.Parameter]:
    """All weights, on the meta device."""
    return dict(fake_transformer(job, resolve_dtype(job.model, "cuda"), {bucket}).named_parameters())


def _count(job: TrainJob, parameters: dict[str, torch.nn.Parameter]) -> FlopCount:
    trained = {name: tuple(weight.shape) for name, weight in parameters.items() if weight.requires_grad}
    memory = job.memory
    return FlopCount(architecture_of(job), trained, memory.activations, memory.ff_chunks)


def _step(
    job: TrainJob, bucket: Bucket, parameters: dict[str, torch.nn.Parameter], count: FlopCount, traffic: PassTraffic
) -> Work:
    moved = traffic.forward.plus(traffic.backward, 1)
    passes, shape = job.gradient_accumulation, shape_of(job, bucket, job.batch_size)
    flops = count.training(shape)
    trained = sum(weight.numel() for weight in parameters.values() if weight.requires_grad)
    optimizer, offload = _optimizer_bytes(job, trained), job.optim.offload or job.distributed.name == "zero2_offload"
    copies = trained * trained_dtype(job.optim).itemsize if offload else 0
    # Gradients that leave during the backward pass are hidden by it; the others wait for its end.
    early = copies * (job.optim.offload_gradients or not job.optim.offload)
    return Work(
        flops=flops.times(passes),
        convolutions=passes * job.batch_size * _encoded_in_a_step(job, bucket),
        elementwise=passes * moved.bytes["elementwise"],
        operators=passes * moved.operators.total(),
        optimizer=0.0 if offload else optimizer,
        on_host=optimizer if offload else 0.0,
        exchanged=2.0 * copies - early,  # gradients to the host, weights back
        copied=early + passes * _copied(job, shape, parameters, count),
    )


def _optimizer_bytes(job: TrainJob, trained: int) -> float:
    """Bytes that a fused step reads and writes: weights, gradients, states, and gradients again for clipping."""
    optim, world_size = job.optim, job.distributed.processes * job.distributed.nodes
    size = trained_dtype(optim).itemsize
    clipping, average = (3 if job.max_grad_norm else 0), (3 if job.ema_decay else 0)
    # 3: the weight is read and written, the gradient read. States are read and written.
    each = size * (3 + clipping + average) + 2 * (optim.state_values * size + optim.state_bytes)
    # FSDP replicates adapters, so every process steps all of them.
    splits = job.distributed.name.startswith("zero") or (job.distributed.name == "fsdp" and job.method.kind == "full")
    return trained * each / (world_size if splits else 1)


def _encoded_in_a_step(job: TrainJob, bucket: Bucket) -> float:
    """Operations of the VAE per clip in a step."""
    frames = [bucket.num_frames] if job.data.encode == "online" else []
    frames += [encoded] if (encoded := build_task(job.task).encoded_frames) else []
    return sum(_vae_flops(job, Bucket(some, bucket.height, bucket.width), "encode") for some in frames)


def _vae_flops(job: TrainJob, shape: Bucket, what: Literal["encode", "decode"]) -> float:
    batch_size = job.data.encode_batch_size if what == "encode" and shape.num_frames > 1 else 1
    dtype = resolve_dtype(job.model, "cuda")
    return vae_pass(job.model.vae, job.memory, dtype, shape, batch_size, what).flops / batch_size


def _copied(job: TrainJob, shape: Shape, parameters: dict[str, torch.nn.Parameter], count: FlopCount) -> float:
    memory, transformer = job.memory, job.model.transformer
    copied = 0.0
    if memory.stream_blocks:  # for the forward pass, and when blocks are recomputed
        frozen = (weight for name, weight in parameters.items() if name.startswith("transformer_blocks"))
        copied += 2.0 * sum(weight.nbytes for weight in frozen if not weight.requires_grad)
    if memory.activations == "offload":
        width = transformer.num_attention_heads * transformer.attention_head_dim
        # A block's inputs are its video and text tokens, out in the forward pass and back in the backward pass.
        values = shape.clips * count.tokens(shape) * width * transformer.num_layers
        copied += 2.0 * values * resolve_dtype(job.model, "cuda").itemsize
    return copied


def _video(job: TrainJob, validation: Validation, count: FlopCount, forward: Traffic, bucket: Bucket) -> Work:
    """Sampling and decoding one video. `forward`: traffic of a training batch, to be scaled by tokens."""
    bucket_of_video = Bucket(validation.num_frames, validation.height, validation.width)
    shape, trained = shape_of(job, bucket_of_video, 1), shape_of(job, bucket, job.batch_size)
    passes = validation.num_inference_steps * (2 if validation.guidance_scale > 1 else 1)
    # Elementwise operations grow with the number of tokens, so the traced batch need not be traced again.
    tokens = count.tokens(shape) / (trained.clips * count.tokens(trained))
    return Work(
        flops=count.forward(shape).times(passes),
        convolutions=_vae_flops(job, bucket_of_video, "decode"),
        elementwise=passes * tokens * forward.bytes["elementwise"],
        # Guidance doubles the batch, not the number of operations.
        operators=validation.num_inference_steps * forward.operators.total(),
    )


def _videos(job: TrainJob, validation: Validation) -> int:
    prompts = validation.prompts
    if isinstance(prompts, str):
        prompts = prompts.split(validation.separator)
    times = 1 + validation.baseline + ((job.steps - 1) // validation.every if validation.every else 0)
    return times * (len(prompts) if prompts else validation.num_prompts) * validation.num_videos
