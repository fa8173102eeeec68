"""Goes through training steps, and one step of sampling, without data."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel

from cogvx_exp.config.schema import Optim, TrainJob, Validation
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.data.samples import Batch
from cogvx_exp.diffusion.denoise import denoising_loss, model_inputs
from cogvx_exp.estimate.live import LiveBytes
from cogvx_exp.estimate.stand_ins import TracedHost, place, transformer_without_data, vae_without_data, without_data
from cogvx_exp.model.adapt import trainable_parameters
from cogvx_exp.model.blocks import arrange_blocks
from cogvx_exp.model.device import resolve_dtype
from cogvx_exp.model.positions import SPATIAL


@dataclass(frozen=True)
class StepBytes:
    """What going through the steps has shown, in bytes."""

    weights: int
    trained: int
    gradients: int
    optimizer: int
    host: int
    resident: int
    """Before the first step."""
    peak: int
    at_peak: Any
    between: int
    """After a step: what stays while videos are sampled."""
    sampling: int
    """Peak of a denoising step above `between`."""


def go_through(job: TrainJob, largest: Bucket, buckets: set[Bucket], device: str) -> StepBytes:
    """Builds the job's model without data and takes two training steps and a denoising step with it.

    Args:
        job: a checked job.
        largest: the shape of the clips in the batch.
        buckets: all shapes of the data.
        device: cuda or cpu.
    """
    dtype = resolve_dtype(job.model, device)
    transformer = transformer_without_data(job, dtype, buckets)
    config = dict(transformer.config)
    with without_data(device) as live:
        place(transformer, live, "weights")
        parameters = trainable_parameters(transformer)
        for parameter in parameters.values():
            live.label(parameter, "trained weights")
        everything = live.live
        with live.making("trained weights"):
            average = [parameter.detach().clone() for parameter in parameters.values()] if job.ema_decay else []
        transformer.train()
        arrange_blocks(transformer, job.memory, torch.device("cpu"), TracedHost(live))
        _label_checkpoints(transformer, live)
        held = _Gradients(parameters, job.optim, live)
        encoder = _EncoderInTheLoop(job, dtype, live)
        resident, weights = live.live, live.by_kind["weights"]
        loss = denoising_loss(torch.empty(job.model.scheduler.num_train_timesteps), config, dtype)
        states: list[torch.Tensor] = []
        for _ in range(2):
            live.reset_peak()
            for _ in range(min(job.gradient_accumulation, 2)):
                encoder.encode(largest, job.batch_size)
                batch = _batch(job, largest, job.batch_size)
                with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                    value = loss(transformer, batch).mean()
                value.backward()
                del value, batch
            if not states:
                states = _optimizer_states(parameters, job.optim, live)
            gradients = live.by_kind["gradients"]
            held.free()
        peak, at_peak, between = live.peak, live.at_peak, live.live
        sampling = 0
        if isinstance(job.validation, Validation):
            live.reset_peak()
            _denoise(transformer, config, job, dtype)
            sampling = live.peak - between
        optimizer_bytes = sum(state.numel() for state in states)
        on_host = (
            optimizer_bytes + sum(parameter.nbytes for parameter in parameters.values()) if job.optim.offload else 0
        )
        trained = sum(parameter.nbytes for parameter in parameters.values()) + sum(tensor.nbytes for tensor in average)
    return StepBytes(
        weights=weights,
        trained=trained,
        gradients=gradients,
        optimizer=0 if job.optim.offload else optimizer_bytes,
        host=on_host + (everything - resident if job.memory.stream_blocks else 0),
        resident=resident,
        peak=peak,
        at_peak=at_peak,
        between=between,
        sampling=sampling,
    )


class _Gradients:
    """Labels gradients as they come, and frees those that leave at once."""

    def __init__(self, parameters: dict[str, torch.nn.Parameter], optim: Optim, live: LiveBytes):
        self._parameters = parameters
        self._live = live
        self._leave = optim.release_gradients or optim.offload_gradients
        for parameter in parameters.values():
            parameter.register_post_accumulate_grad_hook(self._came)

    def _came(self, parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        if self._leave:
            parameter.grad = None
        else:
            self._live.label(parameter.grad, "gradients")

    def free(self) -> None:
        for parameter in self._parameters.values():
            parameter.grad = None


def _optimizer_states(parameters: dict[str, torch.nn.Parameter], optim: Optim, live: LiveBytes) -> list[torch.Tensor]:
    """A tensor for each parameter with as many bytes as its optimizer state."""
    sizes = [
        int(parameter.numel() * (optim.state_values * parameter.element_size() + optim.state_bytes))
        for parameter in parameters.values()
    ]
    with live.making("optimizer"):
        states = [torch.empty(size, dtype=torch.uint8) for size in sizes]
    if optim.offload:
        for state in states:
            live.exclude(state)
    return states


def _label_checkpoints(transformer: CogVideoXTransformer3DModel, live: LiveBytes) -> None:
    """The inputs that checkpointed blocks keep are counted as checkpoints."""
    run = transformer._gradient_checkpointing_func
    if run is None:
        return

    def labelled(block: torch.nn.Module, *args: Any) -> Any:
        for value in args[:2]:  # of image, of text
            live.label(value, "checkpoints")
        return run(block, *args)

    transformer._gradient_checkpointing_func = labelled


class _EncoderInTheLoop:
    """The VAE's encoder, where a run has it in memory while training."""

    def __init__(self, job: TrainJob, dtype: torch.dtype, live: LiveBytes):
        self.vae = None
        self._frames_all = job.data.encode == "online"
        if self._frames_all or job.task.name == "i2v":
            self.vae = vae_without_data(job.model.vae, dtype)
            if not self._frames_all:
                self.vae.decoder = None
            place(self.vae, live, "VAE")

    @torch.no_grad()
    def encode(self, shape: Bucket, batch_size: int) -> None:
        if self.vae is not None:
            frames = shape.num_frames if self._frames_all else 1
            self.vae.encode(torch.empty(batch_size, 3, frames, shape.height, shape.width, dtype=self.vae.dtype))


def _batch(job: TrainJob, shape: Bucket, batch_size: int) -> Batch:
    """A batch without data of clips of one shape."""
    architecture, vae = job.model.transformer, job.model.vae
    frames = (shape.num_frames - 1) // vae.temporal_compression_ratio + 1
    frames += -frames % (architecture.patch_size_t or 1)
    latents = torch.empty(batch_size, frames, vae.latent_channels, shape.height // SPATIAL, shape.width // SPATIAL)
    texts = (batch_size, architecture.max_text_seq_length, architecture.text_embed_dim)
    return Batch(
        latents=latents,
        noise=torch.empty_like(latents),
        timesteps=torch.empty(batch_size, dtype=torch.long),
        prompt_embeds=torch.empty(texts),
        samples=[],
        clips=[],
        image_latents=torch.empty_like(latents) if job.task.name == "i2v" else None,
    )


@torch.no_grad()
def _denoise(transformer: CogVideoXTransformer3DModel, config: dict, job: TrainJob, dtype: torch.dtype) -> None:
    """One step of sampling the validation's videos: with guidance, two at once."""
    validation = job.validation
    assert isinstance(validation, Validation)
    shape = Bucket(validation.num_frames, validation.height, validation.width)
    batch = _batch(job, shape, 2 if validation.guidance_scale > 1 else 1)
    transformer.eval()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        transformer(**model_inputs(batch.latents, batch, config, dtype), return_dict=False)
