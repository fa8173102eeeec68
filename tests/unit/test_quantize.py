"""A packed base: what it computes, and what autograd keeps of it."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from cogvx_exp.model.device import Compute
from cogvx_exp.model.quantize import quantize_block

CPU = Compute(torch.device("cpu"), torch.bfloat16)


def block() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(64, 192), nn.GELU(), nn.Linear(192, 64))
    return layers.to(torch.bfloat16).requires_grad_(False)


@pytest.mark.parametrize("name", ["nf4", "int8", "fp8"])
def test_no_unpacked_weight_waits_for_the_backward_pass(name: str) -> None:
    packed = block()
    quantize_block(packed, name, CPU)
    x, kept = torch.randn(2, 64, dtype=torch.bfloat16, requires_grad=True), []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        packed(x).sum().backward()
    assert max(kept, default=0) < 64 * 192 // 2


@pytest.mark.parametrize("name", ["int8", "fp8"])
@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_are_those_of_the_unpacked_weights(name: str, autocast: bool) -> None:
    plain, packed = block(), block()
    quantize_block(packed, name, CPU)
    for one, other in zip(plain, packed, strict=True):
        if isinstance(one, nn.Linear):
            one.weight = nn.Parameter(other.weight.dequantize(), requires_grad=False)
    x = torch.randn(3, 5, 64, dtype=torch.float32 if autocast else torch.bfloat16)
    found = []
    for model in (plain, packed, copy.deepcopy(packed)):
        given = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = model(given)
        out.float().square().sum().backward()
        assert given.grad.dtype == x.dtype
        found.append((out.float(), given.grad.float()))
    for out, gradient in found[1:]:
        torch.testing.assert_close(out, found[0][0], rtol=0.03, atol=0.02)
        torch.testing.assert_close(gradient, found[0][1], rtol=0.03, atol=0.02)
