"""Models without data: real classes whose parameters have a shape and a type only."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import T5Config, T5EncoderModel

from cogvx_exp.config.schema import TrainJob
from cogvx_exp.config.schema.model import TextEncoderArchitecture, VaeArchitecture
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.estimate.live import LiveBytes
from cogvx_exp.model.adapt import make_trainable, trained_dtype
from cogvx_exp.model.build import vae_arguments
from cogvx_exp.model.host_memory import HostMemory, pinned_size
from cogvx_exp.model.positions import drop_learned_positions, fits_learned_positions, forget_rotary_positions
from cogvx_exp.model.quantize import quantized_layers


@contextmanager
def without_data(device: str) -> Iterator[LiveBytes]:
    """Inside, operations have results without data, and their bytes are counted as on `device` (cuda or cpu)."""
    layer_norm = nn.functional.layer_norm

    def layer_norm_in_float32(x: Any, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
        """CUDA's autocast computes layer norms in float32; that of the CPU does not."""
        if not torch.is_autocast_enabled("cpu"):
            return layer_norm(x, shape, weight, bias, eps)
        weight, bias = (None if value is None else value.float() for value in (weight, bias))
        return layer_norm(x.float(), shape, weight, bias, eps)

    replaced = layer_norm_in_float32 if device == "cuda" else layer_norm
    live = LiveBytes()
    forget_rotary_positions()  # those with data must not get in, nor those without get out
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), mock.patch("torch.nn.functional.layer_norm", replaced), live:
            yield live
    finally:
        forget_rotary_positions()


class TracedHost(HostMemory):
    """Host memory whose tensors are not counted as the device's, but as pinned memory of the host."""

    def __init__(self, live: LiveBytes):
        super().__init__(torch.device("cpu"))
        self._live = live
        self.pinned = 0
        """Bytes alive now."""

    def empty(self, nbytes: int) -> torch.Tensor:
        """Memory for weights."""
        return self._counted(super().empty(nbytes))

    def empty_like(self, tensor: torch.Tensor) -> torch.Tensor:
        """Memory for an activation."""
        return self._counted(super().empty_like(tensor))

    def empty_on_device(self, nbytes: int) -> torch.Tensor:
        """Memory of the device for streamed weights."""
        with self._live.making("weights"):
            return super().empty_on_device(nbytes)

    def _counted(self, tensor: torch.Tensor) -> torch.Tensor:
        self._live.exclude(tensor)
        self._add(pinned_size(tensor.nbytes))
        weakref.finalize(tensor.untyped_storage(), self._add, -pinned_size(tensor.nbytes))
        return tensor

    def _add(self, nbytes: int) -> None:
        self.pinned += nbytes


def transformer_without_data(job: TrainJob, dtype: torch.dtype, shapes: set[Bucket]) -> CogVideoXTransformer3DModel:
    """The job's trainable transformer on the meta device."""
    with torch.device("meta"):
        transformer = CogVideoXTransformer3DModel(**job.model.transformer.model_dump())
    _set_dtype(transformer, dtype)
    transformer.requires_grad_(False)
    if not fits_learned_positions(transformer.config, shapes, job.model.vae.spatial_compression_ratio):
        drop_learned_positions(transformer)
    for block in transformer.transformer_blocks if job.quant.name != "none" else []:
        assert job.quant.bytes_per_weight
        for layer in quantized_layers(block, job.quant.name):
            _pack(layer, job.quant.bytes_per_weight)
    # How an adapter begins changes no size, and may read weights.
    plain = {"init": "default"} if job.method.adapter == "lora" else {}
    with torch.device("meta"):
        make_trainable(transformer, job.method.model_copy(update=plain), job.seed, trained_dtype(job.optim))
    for module in transformer.modules():
        if dropout := getattr(module, "module_dropout", None):  # LoHa, LoKr
            module.module_dropout = dict.fromkeys(dropout, _Never())
    return transformer


class _Never:
    """In the place of peft's module_dropout, which is 0: every draw is above it, and no value is looked at.

    peft asks `torch.rand(1) > module_dropout` in each forward pass, which a tensor without data cannot answer.
    """

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> bool:
        return True


def vae_without_data(architecture: VaeArchitecture, dtype: torch.dtype) -> AutoencoderKLCogVideoX:
    """The autoencoder on the meta device."""
    with torch.device("meta"):
        vae = AutoencoderKLCogVideoX(**vae_arguments(architecture))
    _set_dtype(vae, dtype)
    return vae.requires_grad_(False).eval()


def text_encoder_without_data(architecture: TextEncoderArchitecture, dtype: torch.dtype) -> T5EncoderModel:
    """The text encoder on the meta device."""
    config = T5Config(**architecture.model_dump(), feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    with torch.device("meta"):
        encoder = T5EncoderModel(config)
    _set_dtype(encoder, dtype)
    return encoder.requires_grad_(False).eval()


def place(module: nn.Module, live: LiveBytes, kind: str) -> None:
    """Takes a module from the meta device into `without_data`: from now on its parameters are counted."""
    with live.making(kind):
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


def _pack(layer: nn.Linear, bytes_per_weight: float) -> None:
    """Gives a layer as many bytes as it has when quantized, and what its forward and backward pass unpack."""
    layer.weight = nn.Parameter(
        torch.empty(int(layer.weight.numel() * bytes_per_weight), dtype=torch.uint8, device="meta"),
        requires_grad=False,
    )
    layer.forward = partial(_unpack_and_multiply, layer)  # type: ignore[method-assign]


def _unpack_and_multiply(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    product: torch.Tensor = _Unpacked.apply(x, layer.weight, layer.bias, layer.out_features)
    return product


class _Unpacked(torch.autograd.Function):
    """A linear layer whose weight is unpacked for the moment that it is used."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor, width: int) -> torch.Tensor:
        ctx.dtype, ctx.width, ctx.inputs = x.dtype, width, x.shape[-1]
        x = x.to(bias.dtype)
        return nn.functional.linear(x, x.new_empty(width, x.shape[-1]), bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return (gradient @ gradient.new_empty(ctx.width, ctx.inputs)).to(ctx.dtype), None, None, None
