"""Gradients for quantized attention kernels, which have no backward pass of their own."""

from collections.abc import Callable
from typing import Any

import torch

Pair = tuple[torch.Tensor, torch.Tensor]
ForwardWithLse = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Pair]
"""From query, key and value, (B, tokens, heads, head_dim), to the output and the log-sum-exp, (B, heads, tokens)."""


def attend_exactly_backward(
    forward: ForwardWithLse, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    """Attention with the kernel's output and with gradients computed without quantization."""
    output: torch.Tensor = _ExactBackward.apply(forward, query, key, value)
    return output


class _ExactBackward(torch.autograd.Function):
    """Flash attention's backward pass, given the output and the log-sum-exp of another forward pass.

    It computes the probabilities again, P = exp(Q K^T / sqrt(d) - lse), from the unquantized query and key. The
    output enters through rowsum(dO * O), and the log-sum-exp through P: both have the forward pass's error, which is
    all the error that the gradients have (Dao, arXiv:2307.08691, algorithm 2).
    """

    @staticmethod
    def forward(
        ctx: Any, forward: ForwardWithLse, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        output, lse = forward(query, key, value)
        # What flash attention itself keeps: linear in the tokens. Probabilities would be quadratic.
        ctx.save_for_backward(query, key, value, output, lse)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        *tensors, lse = ctx.saved_tensors
        # These kernels take (B, heads, tokens, head_dim) with any strides.
        query, key, value, output, gradient = (tensor.transpose(1, 2) for tensor in (*tensors, gradient))
        # Both are private operators: PyTorch has no public attention backward pass that takes a given log-sum-exp.
        backward = _backward_on_cuda if gradient.is_cuda else _backward_on_cpu
        gradients = backward(gradient, query, key, value, output, lse.float())
        return None, *(gradient.transpose(1, 2) for gradient in gradients)


def _backward_on_cpu(gradient: torch.Tensor, *forward: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """`forward`: query, key, value, output and log-sum-exp."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(gradient, *forward, 0.0, False)


def _backward_on_cuda(gradient: torch.Tensor, *forward: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """`forward`: query, key, value, output and log-sum-exp."""
    query, key, *_ = forward
    unused = torch.empty(0, dtype=torch.int64, device=query.device)  # dropout's seed and offset, not used at p=0
    return torch.ops.aten._scaled_dot_product_flash_attention_backward(
        gradient, *forward, None, None, query.size(2), key.size(2), 0.0, False, unused, unused
    )
