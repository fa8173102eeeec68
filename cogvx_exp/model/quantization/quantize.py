"""Stores the frozen base in 4 or 8 bits. It computes in the model's dtype or in 8 bits (`quant.compute`)."""

from typing import Any

import torch
from torch import nn

from cogvx_exp.config.schema import Quant
from cogvx_exp.core.errors import UserError
from cogvx_exp.model.device import Compute
from cogvx_exp.model.quantization.products import EightBitLinear

CAPABILITIES = {"fp8": (8, 9), "int8": (8, 0)}
"""Minimum compute capability for 8-bit products: Ada for float8, Ampere for fast integer products."""

NF4_BLOCK = 64
"""Values that share a scale in nf4."""


def quantize_block(block: nn.Module, name: str, compute: Compute, *, in_8_bits: bool = False) -> None:
    """Moves a block to the device and quantizes its linear layers, except their biases.

    Args:
        block: a transformer block with frozen weights.
        name: nf4, int8 or fp8 (`quant=NAME`).
        compute: device, and the type that the layers compute in.
        in_8_bits: whether attention and feed-forward layers also compute in 8 bits.
    """
    # Quantized on the device: only this block is there unquantized.
    block.to(compute.device)
    if name == "nf4":
        _to_nf4(block, compute)
        return
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    layers = quantized_layers(block, name)
    few_rows = layers_with_few_rows(block)
    quantize_(block, {"int8": Int8WeightOnlyConfig, "fp8": Float8WeightOnlyConfig}[name]())
    for layer in layers:
        # Changed in place into a subclass of nn.Linear, the type that peft looks for.
        layer.__class__ = EightBitLinear if in_8_bits and layer not in few_rows else PackedLinear


def layers_with_few_rows(block: nn.Module) -> set[nn.Module]:
    """Layers that read the timestep. One row per sample is too few for 8-bit kernels, and they are cheap."""
    return {layer for name, layer in block.named_modules() if name.startswith("norm")}


def check_products(quant: Quant, compute: Compute) -> None:
    """Checks that this machine supports `quant.compute`.

    Raises:
        UserError: it does not.
    """
    if quant.compute != "8bit" or compute.device.type != "cuda":
        return
    capability, needed = torch.cuda.get_device_capability(compute.device), CAPABILITIES[quant.name]
    if capability < needed:
        instead = "quant=int8, or quant.compute=model" if quant.name == "fp8" else "quant.compute=model"
        raise UserError(
            f"quant.compute=8bit: quant={quant.name} needs compute capability {needed[0]}.{needed[1]}, "
            f"but this GPU has {capability[0]}.{capability[1]}; use {instead}"
        )


class PackedLinear(nn.Linear):
    """A linear layer with a packed torchao weight."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The product with the unpacked weight."""
        product: torch.Tensor = _PackedProduct.apply(x, self)
        return product


class _PackedProduct(torch.autograd.Function):
    """A product with a frozen weight that is unpacked for the backward pass again.

    torchao leaves the backward pass to autograd, which keeps the weight as it was unpacked: in two bytes a value, until
    the backward pass of its layer, which without checkpointing is the whole base once more.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: nn.Linear) -> torch.Tensor:
        ctx.layer, ctx.dtype = layer, x.dtype
        return nn.functional.linear(x, layer.weight, layer.bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        weight = ctx.layer.weight.dequantize().to(gradient.dtype)
        return (gradient @ weight).to(ctx.dtype), None


def _to_nf4(block: nn.Module, compute: Compute) -> None:
    """Replaces the linear layers by bitsandbytes' (diffusers' own loader insists on a GPU)."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    wanted = set(quantized_layers(block, "nf4"))
    for module in list(block.modules()):
        for name, child in list(module.named_children()):
            if child not in wanted:
                continue
            layer = Linear4bit(
                child.in_features,
                child.out_features,
                bias=child.bias is not None,
                compute_dtype=compute.dtype,
                quant_type="nf4",
                # The layer's own initialization would allocate a full unquantized weight, only to replace it.
                device="meta",
            )
            # Quantized by `.to` below: bitsandbytes packs a Params4bit when it reaches the target device.
            layer.weight = Params4bit(child.weight.data, requires_grad=False, quant_type="nf4", module=layer)
            layer.bias = child.bias
            # On a CPU, sampling would pack the weights in a form that training cannot read.
            layer.support_avx512bf16_for_cpu = False
            setattr(module, name, layer.to(compute.device))


def quantized_layers(block: nn.Module, name: str) -> list[nn.Linear]:
    """The layers of a block that `quantize_block` stores in fewer bits: with nf4, those of whole 4-bit blocks."""
    layers = [module for module in block.modules() if type(module) is nn.Linear]
    return [layer for layer in layers if name != "nf4" or layer.in_features % NF4_BLOCK == 0]
