"""Runs training steps and one sampling step with fake tensors."""

from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel

from cogvx_exp.config.schema import Optim, TrainJob, Validation
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.diffusion.batch import Batch
from cogvx_exp.diffusion.denoise import denoising_loss, model_inputs
from cogvx_exp.estimate.trace.encoders import EncodersInTheLoop
from cogvx_exp.estimate.trace.fake_models import (
    TrackedHostMemory,
    fake_batch,
    fake_tensors,
    fake_transformer,
    materialize,
    norm_as_on_cuda,
    with_depth,
)
from cogvx_exp.estimate.trace.memory_tracker import MemoryTracker
from cogvx_exp.model.adapt import trainable_parameters
from cogvx_exp.model.device import Compute, resolve_dtype
from cogvx_exp.model.offload.blocks import apply_memory_options
from cogvx_exp.model.offload.host_memory import pinned_size
from cogvx_exp.optim.state import OFFLOADED_FROM
from cogvx_exp.strategies.micro_batch import forward_backward

DEPTHS = (5, 8)
"""Depths at which deep models are traced. Smaller values would not do: with streamed blocks, shallower models have
their peak elsewhere."""


@dataclass(frozen=True)
class StepBytes:
    """Bytes by kind at the relevant points of training."""

    resident: Counter[str]
    """Before the first step."""
    forward: Counter[str]
    """At the peak of the forward pass."""
    backward: Counter[str]
    """At the peak of the backward pass."""
    between: Counter[str]
    """After a step: what stays during sampling."""
    sampling: Counter[str]
    """At the peak of a denoising step."""
    gradients: Counter[str]
    """Held at the end of a backward pass."""
    host: Counter[str]
    """Peak of host memory; everything except `optimizer states` is pinned."""

    @property
    def peak(self) -> Counter[str]:
        """The higher of a step's two peaks."""
        return max(self.forward, self.backward, key=Counter.total)


def step_bytes(job: TrainJob, largest: Bucket, buckets: set[Bucket], device: str) -> StepBytes:
    """Memory of two training steps and a denoising step of a job.

    All blocks are alike, so a deep model is traced at two depths and extrapolated. The result equals that of the full
    depth, as a test checks, in a third of the time.

    Args:
        job: a checked job.
        largest: shape of the batch's clips.
        buckets: all shapes of the dataset.
        device: cuda or cpu.
    """
    depth = job.model.transformer.num_layers
    if depth <= max(DEPTHS):
        return trace_steps(job, largest, buckets, device)
    low, high = (trace_steps(with_depth(job, layers), largest, buckets, device) for layers in DEPTHS)
    times = (depth - DEPTHS[0]) / (DEPTHS[1] - DEPTHS[0])
    return StepBytes(
        **{item.name: _extend(getattr(low, item.name), getattr(high, item.name), times) for item in fields(low)}
    )


def _extend(low: Counter[str], high: Counter[str], times: float) -> Counter[str]:
    return Counter({kind: round(low[kind] + times * (high[kind] - low[kind])) for kind in low | high})


def trace_steps(job: TrainJob, largest: Bucket, buckets: set[Bucket], device: str) -> StepBytes:
    """Builds the job's model with fake tensors and runs the steps."""
    compute = Compute(torch.device("cpu"), resolve_dtype(job.model, device))
    transformer = fake_transformer(job, compute.dtype, buckets)
    config = dict(transformer.config)
    if device == "cuda":
        norm_as_on_cuda(transformer)
    with fake_tensors() as tracker:
        materialize(transformer, tracker, "weights")
        parameters = trainable_parameters(transformer)
        for parameter in parameters.values():
            tracker.label(parameter, "trained weights")
        with tracker.category("trained weights"):
            # Held by this list only, as EMAModel holds its copies.
            average = [parameter.detach().clone() for parameter in parameters.values()] if job.ema_decay else []
        transformer.train()
        host = TrackedHostMemory(tracker)
        apply_memory_options(transformer, job.memory, compute.device, host)
        _label_checkpoints(transformer, tracker)
        gradients = _Gradients(parameters, job.optim, tracker)
        encoders = EncodersInTheLoop(job, compute.dtype, tracker)
        loss = denoising_loss(torch.empty(job.model.scheduler.num_train_timesteps), config, compute.dtype)
        resident = Counter(tracker.by_kind)
        upcoming = _upcoming(job, largest) if device == "cuda" else None
        passes = _TrackedPasses(transformer, compute, tracker, host)
        states: list[torch.Tensor] = []
        # Two steps: the optimizer's states do not exist before the end of the first one.
        for _ in range(2):
            passes.forget()
            # Two micro-batches show what any number would: gradients that are already there when the next ones come.
            for _ in range(min(job.gradient_accumulation, 2)):
                tracker.reset_peak()
                # Within the step, so that what the encoders leave behind counts as in a run.
                encoders.encode(largest, job.batch_size)
                forward_backward(passes, loss, fake_batch(job, largest, job.batch_size), job.gradient_accumulation)
            states = states or _optimizer_states(parameters, job.optim, tracker)
            held = Counter(gradients=tracker.by_kind["gradients"])
            gradients.free()
        between = Counter(tracker.by_kind)
        tracker.reset_peak()
        if isinstance(job.validation, Validation):
            _denoise(transformer, config, job, compute)
        on_host = Counter({"streamed blocks": passes.streamed, "activations": passes.activations_on_host})
        on_host += _offloaded(transformer, job) + _optimizer_on_host(parameters, job.optim, states)
        del average, upcoming  # kept until here, as in a run
        return StepBytes(
            resident, passes.at_forward, passes.at_backward, between, Counter(tracker.at_peak), held, on_host
        )


def _upcoming(job: TrainJob, shape: Bucket) -> Batch:
    """The batch that is copied to the GPU while another is trained on. It has no condition yet."""
    return replace(fake_batch(job, shape, job.batch_size), condition=None)


class _TrackedPasses:
    """Runs passes like `cogvx_exp.strategies.single.Strategy`, and records the peaks of both."""

    def __init__(
        self,
        transformer: CogVideoXTransformer3DModel,
        compute: Compute,
        tracker: MemoryTracker,
        host: TrackedHostMemory,
    ):
        self.model: torch.nn.Module = transformer
        self._compute, self._tracker, self._host = compute, tracker, host
        self.streamed = host.pinned
        """Bytes of frozen weights in host memory."""
        self.activations_on_host = 0
        """Peak bytes."""
        self.forget()

    def forget(self) -> None:
        """Discards the peaks of earlier steps."""
        self.at_forward, self.at_backward = Counter[str](), Counter[str]()

    def autocast(self) -> AbstractContextManager[None]:
        """Mixed precision for a forward pass."""
        return self._compute.autocast()

    def backward(self, loss: torch.Tensor) -> None:
        """Accumulates the gradients of a loss."""
        self.at_forward = max(self.at_forward, self._tracker.at_peak, key=Counter.total)
        self.activations_on_host = max(self.activations_on_host, self._host.pinned - self.streamed)
        self._tracker.reset_peak()
        loss.backward()
        self.at_backward = max(self.at_backward, self._tracker.at_peak, key=Counter.total)


class _Gradients:
    """Labels gradients as they accumulate, and frees those that are released or offloaded."""

    def __init__(self, parameters: dict[str, torch.nn.Parameter], optim: Optim, tracker: MemoryTracker):
        self._parameters = parameters
        self._tracker = tracker
        # Both free a gradient as soon as it has accumulated; where it goes does not matter to the device.
        self._leave = optim.release_gradients or optim.offload_gradients
        for parameter in parameters.values():
            parameter.register_post_accumulate_grad_hook(self._came)

    def _came(self, parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        if self._leave:
            parameter.grad = None
        else:
            self._tracker.label(parameter.grad, "gradients")

    def free(self) -> None:
        for parameter in self._parameters.values():
            parameter.grad = None


def _optimizer_states(
    parameters: dict[str, torch.nn.Parameter], optim: Optim, tracker: MemoryTracker
) -> list[torch.Tensor]:
    """A tensor per parameter with the size of its optimizer state."""
    sizes = [
        int(parameter.numel() * (optim.state_values * parameter.element_size() + optim.state_bytes))
        for parameter in parameters.values()
    ]
    with tracker.category("optimizer"):
        states = [torch.empty(size, dtype=torch.uint8) for size in sizes]
    if optim.offload:
        for state in states:
            tracker.exclude(state)
    return states


def _optimizer_on_host(
    parameters: dict[str, torch.nn.Parameter], optim: Optim, states: list[torch.Tensor]
) -> Counter[str]:
    """Host memory of an offloaded optimizer: its states, and a copy of each weight and gradient."""
    if not optim.offload:
        return Counter()
    large = [at for at, parameter in enumerate(parameters.values()) if parameter.numel() >= OFFLOADED_FROM]
    copies = [2 * pinned_size(parameter.nbytes) for parameter in parameters.values()]
    return Counter(
        {
            "optimizer states": sum(states[at].nbytes for at in large),
            "copies of weights and gradients": sum(copies[at] for at in large),
        }
    )


def _offloaded(transformer: CogVideoXTransformer3DModel, job: TrainJob) -> Counter[str]:
    """Copies of the weights that are made when videos are decoded, and then kept."""
    if not (isinstance(job.validation, Validation) and job.validation.offload):
        return Counter()
    # Each storage is pinned on its own, so each is rounded on its own.
    sizes = [pinned_size(weight.nbytes) for weight in transformer.parameters() if weight.numel()]
    return Counter({"weights while decoding": sum(sizes)})


def _label_checkpoints(transformer: CogVideoXTransformer3DModel, tracker: MemoryTracker) -> None:
    """Counts the inputs kept by checkpointed blocks as checkpoints."""
    run = transformer._gradient_checkpointing_func
    if run is None:
        return

    def labelled(block: torch.nn.Module, *args: Any) -> Any:
        for value in args[:2]:  # of image, of text
            tracker.label(value, "checkpoints")
        return run(block, *args)

    transformer._gradient_checkpointing_func = labelled


@torch.no_grad()
def _denoise(transformer: CogVideoXTransformer3DModel, config: dict, job: TrainJob, compute: Compute) -> None:
    """A denoising step of validation, with a batch of two for guidance."""
    validation = job.validation
    assert isinstance(validation, Validation)
    shape = Bucket(validation.num_frames, validation.height, validation.width)
    # diffusers runs the prompt and the negative prompt as one batch.
    batch = fake_batch(job, shape, 2 if validation.guidance_scale > 1 else 1)
    transformer.eval()
    with compute.autocast():
        transformer(**model_inputs(batch.latents, batch, config, compute.dtype), return_dict=False)
