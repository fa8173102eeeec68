"""8-bit matrix products of frozen linear layers (`quant.compute=8bit`): the forward pass and the input's gradient.

Weights have a scale for each output channel, and activations get one for each token, so that scales can be taken out of
the sum: y = (Xq Wq^T) * sx * sw. In the gradient of the input the weight's scales belong to what is summed over, so
they are multiplied into the incoming gradient before that is quantized: dx = ((dy * sw)q Wq) * s.
"""

from typing import Any

import torch
from torch import nn

FP8 = torch.float8_e4m3fn
FP8_MAX = torch.finfo(FP8).max
INT8_MAX = 127.0
SMALLEST = 1e-12
"""Lower bound of a scale, for tokens that are all zero."""


class EightBitLinear(nn.Linear):
    """A linear layer with an 8-bit torchao weight that has one scale per output."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The product, in the dtype of a plain linear layer."""
        weight: Any = self.weight
        return linear_in_8_bits(x, weight.qdata, weight.scale, self.bias)


def linear_in_8_bits(
    x: torch.Tensor, values: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """A linear layer with 8-bit `values` (outputs, inputs) and `scales` (outputs, 1)."""
    dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
    product: torch.Tensor = _Product.apply(x, values, scales, dtype)
    return product if bias is None else product + bias.to(dtype)


class _Product(torch.autograd.Function):
    """`x` times the transposed weight. Both passes quantize their input token by token."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, values: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        ctx.save_for_backward(values, scales)
        ctx.dtype = x.dtype
        product = _product(x.flatten(0, -2), values.t(), scales.t(), dtype)
        return product.unflatten(0, x.shape[:-1])

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        values, scales = ctx.saved_tensors
        scaled = gradient.flatten(0, -2) * scales.t().to(gradient.dtype)
        # The kernels need a second operand with contiguous columns, so the weight is transposed in memory. That is one
        # pass over its bytes, which is cheap next to the activations.
        columns = values.t().contiguous().t()
        product = _product(scaled, columns, scales.new_ones(1, values.size(1)), ctx.dtype)
        return product.unflatten(0, gradient.shape[:-1]), None, None, None


def _product(x: torch.Tensor, values: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`x` (M, K) times the 8-bit `values` (K, N), whose columns have `scales` (1, N)."""
    largest = x.abs().amax(dim=1, keepdim=True).float().clamp_min(SMALLEST)
    if values.dtype == torch.int8:
        scale = largest / INT8_MAX
        rounded = (x / scale).round().to(torch.int8)
        return (torch._int_mm(rounded, values) * scale * scales).to(dtype)
    scale = largest / FP8_MAX
    # e4m3 has no infinity: values above its maximum become NaN, and the division may round up past it.
    quantized = (x / scale).clamp(-FP8_MAX, FP8_MAX).to(FP8)
    # With a scale for each row and column, CUDA's kernel writes 16 bits only.
    written = torch.bfloat16 if x.is_cuda and dtype == torch.float32 else dtype
    product = torch._scaled_mm(quantized, values, scale_a=scale, scale_b=scales.contiguous(), out_dtype=written)
    return product.to(dtype)
