"""Stores the frozen base in 4 or 8 bits; it still computes in the model's own type."""

from torch import nn

from cogvx_exp.model.device import Compute

NF4_BLOCK = 64
"""Values that share a scale in nf4."""


def quantize_block(block: nn.Module, name: str, compute: Compute) -> None:
    """Moves a block to the device and quantizes its linear layers, biases left out.

    Args:
        block: a transformer block with frozen weights.
        name: nf4, int8 or fp8 (`quant=NAME`).
        compute: device, and the type that the layers compute in.
    """
    block.to(compute.device)
    if name == "nf4":
        _to_nf4(block, compute)
        return
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    quantize_(block, {"int8": Int8WeightOnlyConfig, "fp8": Float8WeightOnlyConfig}[name]())


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
                device="meta",
            )
            layer.weight = Params4bit(child.weight.data, requires_grad=False, quant_type="nf4", module=layer)
            layer.bias = child.bias
            # On a CPU, sampling would pack the weights in a form that training cannot read.
            layer.support_avx512bf16_for_cpu = False
            setattr(module, name, layer.to(compute.device))


def quantized_layers(block: nn.Module, name: str) -> list[nn.Linear]:
    """The layers of a block that `quantize_block` stores in fewer bits: with nf4, those of whole 4-bit blocks."""
    layers = [module for module in block.modules() if type(module) is nn.Linear]
    return [layer for layer in layers if name != "nf4" or layer.in_features % NF4_BLOCK == 0]
