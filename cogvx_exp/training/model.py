"""Loads the transformer of a run and makes it trainable."""

import torch
from diffusers import CogVideoXTransformer3DModel

from cogvx_exp.config.schema import TrainJob, Validation
from cogvx_exp.console.progress import console
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.data.dataset import Clip
from cogvx_exp.evaluation.adapter import find_adapter
from cogvx_exp.latents.context import PipelineContext
from cogvx_exp.model.adapt import make_trainable, trainable_parameters, trained_dtype
from cogvx_exp.model.attention.backends import set_attention
from cogvx_exp.model.compilation import compile_blocks
from cogvx_exp.model.device import Compute
from cogvx_exp.model.load import load_adapter_weights, load_transformer
from cogvx_exp.model.offload.blocks import apply_memory_options
from cogvx_exp.model.positions import drop_learned_positions, fits_learned_positions
from cogvx_exp.strategies.build import splits_weights


def load_base(job: TrainJob, context: PipelineContext, *, on_host: bool = False) -> CogVideoXTransformer3DModel:
    """The frozen transformer as used by the run: quantized, or with its blocks on the host.

    `on_host`: all of it stays on the host, as memory-mapped pages of the files, which a machine's processes share.
    """
    return load_transformer(
        context.folder,
        Compute(torch.device("cpu"), context.compute.dtype) if on_host else context.compute,
        in_channels=context.task.in_channels(job.model.transformer.model_dump()),
        quant=job.quant.name,
        in_8_bits=job.quant.compute == "8bit",
        blocks_on_host=job.memory.stream_blocks,
    )


def load_trainable(
    job: TrainJob, context: PipelineContext, clips: list[Clip], steps: int
) -> tuple[CogVideoXTransformer3DModel, bool]:
    """The transformer with an adapter or unfrozen weights, and all options of memory, attention and compilation.

    Returns:
        The transformer, and whether its learned positions were removed.

    Raises:
        UserError: the settings do not fit the model.
    """
    how, device = job.distributed.name, context.compute.device
    transformer = load_base(job, context, on_host=splits_weights(how))
    scale = job.model.vae.spatial_compression_ratio
    positions_dropped = not fits_learned_positions(transformer.config, _shapes(job, clips), scale)
    if positions_dropped:
        drop_learned_positions(transformer)
        console.warn(f"{job.model.name}'s learned positions only fit its native shape: they are dropped for this run")
    dtype = trained_dtype(job.optim)
    # For sharded states, the strategy casts: float32 copies of all weights might not fit on one device.
    make_trainable(transformer, job.method, job.seed, dtype if how in ("single", "ddp") else None, device)
    if job.method.init_from:
        load_adapter_weights(transformer, find_adapter(job.method.init_from, "method.init_from").file)
    # `from_pretrained` returns models in evaluation mode, without dropout.
    transformer.train()
    _print_parameters(job, transformer, steps)  # before weights are streamed, which leaves them empty
    apply_memory_options(transformer, job.memory, device)
    set_attention(transformer, job.attention)
    # Last: compiled code contains everything that changes a block's computation.
    if job.compile:
        compile_blocks(transformer, job.compile_dynamic, job.cache_dir)
    return transformer, positions_dropped


def _print_parameters(job: TrainJob, transformer: CogVideoXTransformer3DModel, steps: int) -> None:
    trained = sum(parameter.numel() for parameter in trainable_parameters(transformer).values())
    everything = transformer.num_parameters()
    of = f" of {everything:,}" if job.quant.name == "none" else ""  # packed weights have fewer elements
    stored = f", the base in {job.quant.name}," if job.quant.name != "none" else ""
    console.print(f"Training {trained:,}{of} parameters of {job.model.name}{stored} for {steps} steps")


def _shapes(job: TrainJob, clips: list[Clip]) -> set[Bucket]:
    """All shapes of videos in the run."""
    shapes = {clip.bucket for clip in clips}
    if isinstance(job.validation, Validation):
        shapes.add(Bucket(job.validation.num_frames, job.validation.height, job.validation.width))
    return shapes
