"""Predicted memory of a run: bytes by kind and by phase."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

from cogvx_exp.config.schema import TrainJob, Validation
from cogvx_exp.core.units import GIB
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.estimate.loading import loading_peak
from cogvx_exp.estimate.splitting import split_over
from cogvx_exp.estimate.trace.encoders import text_encoder_peak, vae_pass, vae_weights
from cogvx_exp.estimate.trace.training_step import StepBytes, step_bytes
from cogvx_exp.latents.captions import CAPTIONS_AT_ONCE
from cogvx_exp.model.adapt import trained_dtype
from cogvx_exp.model.device import resolve_dtype
from cogvx_exp.strategies.build import splits_weights

CONTEXT_GIB = 0.6
"""The CUDA context with loaded kernels: 0.4 to 0.6 GiB on recent cards."""
WORKSPACES_GIB = 0.1
"""cuBLAS and cuBLASLt use 32 MiB each on Hopper, less on older cards (https://github.com/pytorch/pytorch/pull/120925).
cuDNN's workspaces need no reserve: if memory is short, torch falls back to a plan that needs less
(aten/src/ATen/native/cudnn/Conv_v8.cpp, `try_plans`)."""
NCCL_GIB = 0.5
"""nccl's buffers with several processes: 10 MiB per connection of each channel
(https://github.com/NVIDIA/nccl/issues/1685), for the 24 channels of a ring with two connections."""
RESERVE_GIB = CONTEXT_GIB + WORKSPACES_GIB
"""A GPU's memory apart from tensors, with one process."""

PHASES = ("encoding", "before_training", "before_validation", "after_validation", "after_testing")
"""Encoding of captions and clips, then the four points of CogVideoX Factory's tables: weights loaded; peak of training;
peak with validation before and between steps; peak of the final validation."""


@dataclass(frozen=True)
class Prediction:
    """A run's memory on its device. All values are GiB."""

    name: str
    shape: str
    """The largest clip, frames x height x width."""
    batch_size: int
    weights: float
    """Frozen weights on the device."""
    trained: float
    """Trained weights, and their EMA if enabled."""
    gradients: float
    """Gradients held at the end of a backward pass."""
    optimizer: float
    """Optimizer states on the device."""
    host: float
    """Peak host memory."""
    host_kinds: dict[str, float]
    """The same by kind; everything except optimizer states is pinned."""
    at_peak: dict[str, float]
    """Memory at the peak of a training step, by kind."""
    phases: dict[str, float]
    """Peaks of those of `PHASES` that the run has."""
    reserve: float = RESERVE_GIB
    """The device's memory apart from tensors."""

    @property
    def peak(self) -> float:
        """The maximum over all phases."""
        return max(self.phases.values())

    def fits(self, budget: float) -> bool:
        """Whether the run fits on a device with `budget` GiB."""
        return self.peak + self.reserve <= budget


def predict(job: TrainJob, shapes: Iterable[Bucket] | None = None, device: str = "cuda") -> Prediction:
    """Predicts a run's memory.

    Args:
        job: a checked job.
        shapes: the buckets of the dataset; by default all configured ones.
        device: cuda, or cpu, whose autocast keeps layer norms in 16 bits.
    """
    buckets = set(shapes or configured_buckets(job))
    largest = largest_of(buckets)
    whole = step_bytes(job, largest, buckets, device)
    step = split_over(whole, job, device)
    phases = {
        # The encoders are gone before the transformer is loaded, so phases are compared, not added.
        "encoding": _encoding_peak(job, largest, device),
        "before_training": loading_peak(job, step, resolve_dtype(job.model, device)),
        "before_validation": step.peak.total(),
        **_sampling_peaks(job, step, device),
    }
    if "after_testing" in phases:  # the exported model is not sharded
        phases["after_testing"] = _sampling_peaks(job, whole, device)["after_testing"]
    kinds = {kind: _gib(size) for kind, size in step.peak.most_common()}
    host = Counter(step.host)
    if splits_weights(job.distributed.name):
        host["weights while decoding"] //= job.distributed.processes * job.distributed.nodes
    return Prediction(
        name=job.name,
        shape=str(largest),
        batch_size=job.batch_size,
        weights=_gib(step.between["weights"]),
        trained=_gib(step.resident["trained weights"]),
        gradients=_gib(step.gradients.total()),
        optimizer=_gib(step.between["optimizer"]),
        host=_gib(host.total()),
        host_kinds={kind: _gib(size) for kind, size in host.most_common()},
        at_peak={kind: size for kind, size in kinds.items() if size > 0},
        phases={name: _gib(value) for name, value in phases.items()},
        reserve=RESERVE_GIB + (NCCL_GIB if job.distributed.name != "single" else 0.0),
    )


def _gib(size: int) -> float:
    return round(size / GIB, 6)


def _encoding_peak(job: TrainJob, largest: Bucket, device: str) -> int:
    """Peak before training: encoding captions, then clips."""
    dtype = resolve_dtype(job.model, device)
    clips = vae_pass(job.model.vae, job.memory, dtype, largest, job.data.encode_batch_size, "encode").peak
    tokens = (CAPTIONS_AT_ONCE, job.model.transformer.max_text_seq_length)
    return max(clips, text_encoder_peak(job.model.text_encoder, dtype, tokens))


def _sampling_peaks(job: TrainJob, step: StepBytes, device: str) -> dict[str, int]:
    """Peaks of validation between steps and of the final one."""
    validation = job.validation
    if not isinstance(validation, Validation):
        return {}
    dtype = resolve_dtype(job.model, device)
    shape = Bucket(validation.num_frames, validation.height, validation.width)
    vae = vae_weights(job.model.vae, dtype)
    # One video at a time, as validation decodes them.
    decoding = vae_pass(job.model.vae, job.memory, dtype, shape, 1, "decode").peak
    trained = step.between["trained weights"] // (2 if job.ema_decay else 1)  # without the EMA
    transformer = step.between["weights"] + trained
    without = transformer if validation.offload else 0
    sampling = max(step.sampling.total() + vae, step.between.total() - without + decoding)
    # The final videos are sampled from the export, when nothing else is in memory. Full fine-tuning exports in the
    # model's dtype.
    if job.method.kind == "full":
        trained = trained * dtype.itemsize // trained_dtype(job.optim).itemsize
    exported = step.between["weights"] + trained
    denoising = step.sampling.total() - step.between.total() + exported
    testing = max(denoising + vae, decoding + (0 if validation.offload else exported))
    return {"after_validation": max(step.peak.total(), sampling), "after_testing": testing}


def largest_of(buckets: Iterable[Bucket]) -> Bucket:
    """The shape with the most values."""
    return max(buckets, key=lambda bucket: bucket.num_frames * bucket.height * bucket.width)


def configured_buckets(job: TrainJob) -> set[Bucket]:
    """All shapes that a job's clips may have."""
    data = job.data
    return {Bucket(*sizes) for sizes in product(data.frame_buckets, data.height_buckets, data.width_buckets)}
