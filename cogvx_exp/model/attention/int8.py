"""Attention with queries and keys in 8 bits, in plain torch operations.

SageAttention 2 (arXiv:2411.10958) on any device: what its kernels round is rounded here, too, so that training with
them can be tested without a GPU. Queries are quantized in groups of 32 tokens and keys in groups of 64, as its kernels
do by default per warp; the mean key is subtracted first, which changes no probability.
"""

import math

import torch

QUERY_GROUP = 32
KEY_GROUP = 64


def int8_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The output, (B, tokens, heads, head_dim), and the log-sum-exp in float32, (B, heads, tokens)."""
    q, k, v = (tensor.transpose(1, 2).float() for tensor in (query, key, value))
    mean = k.mean(dim=2, keepdim=True)
    scale = 1 / math.sqrt(q.size(-1))
    scores = scale * _rounded(q, QUERY_GROUP) @ _rounded(k - mean, KEY_GROUP).transpose(-1, -2)
    # In float32, as in the kernels: the backward pass exponentiates it again.
    lse = scores.logsumexp(dim=-1)
    probabilities = (scores - lse.unsqueeze(-1)).exp()
    # The kernels multiply probabilities by values in 16 bits, on newer GPUs in 8.
    low = torch.float16 if value.dtype == torch.float32 else value.dtype
    output = probabilities.to(low).float() @ v.to(low).float()
    # The backward pass uses the original keys, so the log-sum-exp must include their mean.
    lse = lse + scale * (q @ mean.transpose(-1, -2)).squeeze(-1)
    return output.transpose(1, 2).to(query.dtype), lse


def _rounded(x: torch.Tensor, group: int) -> torch.Tensor:
    """Rounds values to 8-bit integers with one scale per group of tokens; `x`: (B, heads, tokens, head_dim)."""
    tokens = x.size(2)
    # Padding with zeros does not change a group's largest magnitude, and with it the scale.
    padded = torch.nn.functional.pad(x, (0, 0, 0, -tokens % group)).unflatten(2, (-1, group))
    scale = padded.abs().amax(dim=(-1, -2), keepdim=True).clamp_min(1e-12) / 127
    return ((padded / scale).round() * scale).flatten(2, 3)[:, :, :tokens]
