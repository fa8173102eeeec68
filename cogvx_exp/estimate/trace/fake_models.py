"""The real model classes with fake tensors as parameters, which have a shape and dtype but no data."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import T5Config, T5EncoderModel

from cogvx_exp.config.schema import Attention, Quant, TrainJob
from cogvx_exp.config.schema.model import TextEncoderArchitecture, VaeArchitecture
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.diffusion.batch import Batch
from cogvx_exp.estimate.trace.memory_tracker import MemoryTracker
from cogvx_exp.model.adapt import make_trainable, trained_dtype
from cogvx_exp.model.attention.backends import set_attention
from cogvx_exp.model.build import vae_arguments
from cogvx_exp.model.offload.host_memory import HostMemory, pinned_size
from cogvx_exp.model.positions import drop_learned_positions, fits_learned_positions, forget_rotary_positions
from cogvx_exp.model.quantization.products import linear_in_8_bits
from cogvx_exp.model.quantization.quantize import layers_with_few_rows, quantized_layers
from cogvx_exp.tasks.base import build_task


@contextmanager
def fake_tensors() -> Iterator[MemoryTracker]:
    """Makes tensors fake inside the block, and counts their bytes."""
    tracker = MemoryTracker()
    forget_rotary_positions()  # cached real tensors must not be used inside, nor fake ones outside
    try:
        # The tracker sees the fake results, as the innermost mode is called first. Modules hold a few real constants.
        with FakeTensorMode(allow_non_fake_inputs=True), tracker:
            yield tracker
    finally:
        forget_rotary_positions()


class TrackedHostMemory(HostMemory):
    """Host memory whose tensors count as pinned host memory, not as the device's."""

    def __init__(self, tracker: MemoryTracker):
        # Fake tensors pretend to be on the CPU, so no stream or event is ever made.
        super().__init__(torch.device("cpu"))
        self._tracker = tracker
        self.pinned = 0
        """Current bytes."""

    def empty(self, nbytes: int) -> torch.Tensor:
        """Memory for weights."""
        return self._counted(super().empty(nbytes))

    def empty_like(self, tensor: torch.Tensor) -> torch.Tensor:
        """Memory for an activation."""
        return self._counted(super().empty_like(tensor))

    def empty_on_device(self, nbytes: int) -> torch.Tensor:
        """Device memory for streamed weights."""
        with self._tracker.category("weights"):
            return super().empty_on_device(nbytes)

    def _counted(self, tensor: torch.Tensor) -> torch.Tensor:
        self._tracker.exclude(tensor)
        self._add(pinned_size(tensor.nbytes))
        # Freed with the storage and not with the tensor, of which views may be left.
        weakref.finalize(tensor.untyped_storage(), self._add, -pinned_size(tensor.nbytes))
        return tensor

    def _add(self, nbytes: int) -> None:
        self.pinned += nbytes


def with_depth(job: TrainJob, layers: int) -> TrainJob:
    """The job with a model of so many blocks."""
    transformer = job.model.transformer.model_copy(update={"num_layers": layers})
    return job.model_copy(update={"model": job.model.model_copy(update={"transformer": transformer})})


def architecture_of(job: TrainJob) -> dict[str, Any]:
    """Arguments of the job's transformer, whose input may be wider than the checkpoint's."""
    arguments = job.model.transformer.model_dump()
    return arguments | {"in_channels": build_task(job.task).in_channels(arguments)}


def fake_transformer(job: TrainJob, dtype: torch.dtype, shapes: set[Bucket]) -> CogVideoXTransformer3DModel:
    """The job's trainable transformer on the meta device."""
    with torch.device("meta"):
        transformer = CogVideoXTransformer3DModel(**architecture_of(job))
    transformer.widened = transformer.config.in_channels > job.model.transformer.in_channels
    _set_dtype(transformer, dtype)
    transformer.requires_grad_(False)
    if not fits_learned_positions(transformer.config, shapes, job.model.vae.spatial_compression_ratio):
        drop_learned_positions(transformer)
    for block in transformer.transformer_blocks if job.quant.name != "none" else []:
        few_rows = layers_with_few_rows(block)
        for layer in quantized_layers(block, job.quant.name):
            _pack(layer, job.quant, in_8_bits=job.quant.compute == "8bit" and layer not in few_rows)
    # The initialization of an adapter does not affect sizes, but may read weights.
    plain = {"init": "default"} if job.method.adapter == "lora" else {}
    with torch.device("meta"):
        make_trainable(transformer, job.method.model_copy(update=plain), job.seed, trained_dtype(job.optim))
    set_attention(transformer, _traceable(job.attention))
    for module in transformer.modules():
        if dropout := getattr(module, "module_dropout", None):  # LoHa, LoKr
            module.module_dropout = dict.fromkeys(dropout, _Never())
    return transformer


def fake_batch(job: TrainJob, shape: Bucket, batch_size: int) -> Batch:
    """A batch without data of clips of one shape."""
    architecture, vae = job.model.transformer, job.model.vae
    frames = (shape.num_frames - 1) // vae.temporal_compression_ratio + 1
    # As `TrainingSamples` pads them for CogVideoX 1.5.
    frames += -frames % (architecture.patch_size_t or 1)
    height, width = (side // vae.spatial_compression_ratio for side in (shape.height, shape.width))
    latents = torch.empty(batch_size, frames, vae.latent_channels, height, width)
    texts = (batch_size, architecture.max_text_seq_length, architecture.text_embed_dim)
    return Batch(
        latents=latents,
        noise=torch.empty_like(latents),
        timesteps=torch.empty(batch_size, dtype=torch.long),
        prompt_embeds=torch.empty(texts),
        samples=[],
        clips=[],
        condition=torch.empty_like(latents) if build_task(job.task).condition_channels else None,
    )


def _traceable(attention: Attention) -> Attention:
    """A kernel that runs without a GPU and keeps what the given one keeps: query, key, value, output, log-sum-exp."""
    return attention if attention.forward == "_native_math" else Attention()


class _Never:
    """Replaces peft's module_dropout of 0: every draw is above it, without looking at values.

    peft evaluates `torch.rand(1) > module_dropout` in each forward pass, which a fake tensor cannot answer.
    """

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> bool:
        return True


def norm_as_on_cuda(module: nn.Module) -> None:
    """Computes layer norms in float32, as autocast does on CUDA (aten/src/ATen/autocast_mode.h) but not on the CPU."""
    for part in module.modules():
        if type(part) is nn.LayerNorm:
            part.__class__ = CudaLayerNorm


class CudaLayerNorm(nn.LayerNorm):
    """See `norm_as_on_cuda`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The norm of `x`."""
        tensors = [x, self.weight, self.bias]
        if torch.is_autocast_enabled("cpu"):
            # Copies, as on CUDA: they are what makes the difference in memory.
            tensors = [None if tensor is None else tensor.float() for tensor in tensors]
        x, weight, bias = tensors
        return nn.functional.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


def fake_vae(
    architecture: VaeArchitecture, dtype: torch.dtype, *, slicing: bool = False, tiling: bool = False
) -> AutoencoderKLCogVideoX:
    """The autoencoder on the meta device."""
    with torch.device("meta"):
        vae = AutoencoderKLCogVideoX(**vae_arguments(architecture))
    if slicing:
        vae.enable_slicing()
    if tiling:
        vae.enable_tiling()
    _set_dtype(vae, dtype)
    return vae.requires_grad_(False).eval()


def fake_text_encoder(architecture: TextEncoderArchitecture, dtype: torch.dtype) -> T5EncoderModel:
    """The text encoder on the meta device."""
    config = T5Config(**architecture.model_dump(), feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    with torch.device("meta"):
        encoder = T5EncoderModel(config)
    _set_dtype(encoder, dtype)
    return encoder.requires_grad_(False).eval()


def materialize(module: nn.Module, tracker: MemoryTracker, kind: str) -> None:
    """Replaces a module's meta tensors by allocated ones, inside `fake_tensors`."""
    with tracker.category(kind):
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    data = torch.empty(parameter.shape, dtype=parameter.dtype)
                    part._parameters[name] = nn.Parameter(data, requires_grad=parameter.requires_grad)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _set_dtype(module: nn.Module, dtype: torch.dtype) -> None:
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)


def _pack(layer: nn.Linear, quant: Quant, *, in_8_bits: bool) -> None:
    """Gives a layer its quantized size, and a forward and backward pass that unpack it."""
    assert quant.bytes_per_weight
    # As many bytes as the packed weight, whatever its layout: only sizes matter here.
    layer.weight = nn.Parameter(
        torch.empty(int(layer.weight.numel() * quant.bytes_per_weight), dtype=torch.uint8, device="meta"),
        requires_grad=False,
    )
    forward = partial(_linear_in_8_bits, layer) if in_8_bits else partial(_packed_linear, layer, quant.name)
    layer.forward = forward  # type: ignore[method-assign]


def _linear_in_8_bits(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    values = layer.weight.view(torch.int8).view(layer.out_features, layer.in_features)
    return linear_in_8_bits(x, values, values.new_empty(layer.out_features, 1, dtype=torch.float32), layer.bias)


def _packed_linear(layer: nn.Linear, quant: str, x: torch.Tensor) -> torch.Tensor:
    product: torch.Tensor = _PackedLinear.apply(x, layer.bias, layer.out_features, quant)
    return product


class _PackedLinear(torch.autograd.Function):
    """A linear layer whose weight is unpacked only while it is used, as in `model.quantization.quantize`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, bias: torch.Tensor, width: int, quant: str) -> torch.Tensor:
        ctx.dtype, ctx.width, ctx.inputs, ctx.quant = x.dtype, width, x.shape[-1], quant
        x = x.to(bias.dtype)
        if quant == "int8":  # torchao scales the product, not the weight (workflows/int8/int8_tensor.py)
            product = (x @ x.new_empty(x.shape[-1], width)) * bias
            product += bias
            return product
        return nn.functional.linear(x, _unpack(quant, x, width, x.shape[-1]), bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return (gradient @ _unpack(ctx.quant, gradient, ctx.width, ctx.inputs)).to(ctx.dtype), None, None, None


def _unpack(quant: str, like: torch.Tensor, width: int, inputs: int) -> torch.Tensor:
    """An unpacked weight, in the dtype of `like`.

    torchao's functions (quantization/quant_primitives.py) create temporary copies, the scaled one in float32; nf4 is
    unpacked by a bitsandbytes kernel.
    """
    if quant == "nf4":
        return like.new_empty(width, inputs)
    values = like.new_empty(width, inputs, dtype=torch.float32 if quant == "fp8" else like.dtype)
    scaled = values * like.new_empty(width, 1, dtype=torch.float32)
    if quant == "int8":  # fp8 keeps `values` until the end
        del values
    return scaled.to(like.dtype)
