"""A quantized base: its results, and the tensors that autograd saves."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from cogvx_exp.config.schema import Quant
from cogvx_exp.core.errors import UserError
from cogvx_exp.model.device import Compute
from cogvx_exp.model.quantization.quantize import check_products, quantize_block

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


LAYERS = {"to_q": (64, 64), "ff.net.0.proj": (64, 256), "ff.net.2": (256, 64)}


@pytest.mark.parametrize(("name", "bound"), [("int8", 0.015), ("fp8", 0.04)])
def test_products_in_8_bits_have_the_error_of_their_rounding(name: str, bound: float, capsys) -> None:
    """Errors of output and gradient relative to float32, with tokens of very different magnitudes."""
    errors = {}
    for layer, (inputs, outputs) in LAYERS.items():
        torch.manual_seed(0)
        plain = nn.Sequential(nn.Linear(inputs, outputs)).requires_grad_(False)
        packed = copy.deepcopy(plain).to(torch.bfloat16)
        quantize_block(packed, name, CPU, in_8_bits=True)
        x = torch.randn(2, 100, inputs) * torch.logspace(-2, 2, 100).unsqueeze(-1)
        gradient = torch.randn(2, 100, outputs)
        found = []
        for model, dtype in ((plain, torch.float32), (packed, torch.bfloat16)):
            given = x.detach().to(dtype, copy=True).requires_grad_()
            output = model(given)
            assert output.dtype == dtype
            output.backward(gradient.to(dtype))
            assert given.grad.dtype == dtype
            found.append((output.float(), given.grad.float()))
        errors[layer] = [float((b - a).norm() / a.norm()) for a, b in zip(*found, strict=True)]
        # Each token has its own scale: small tokens lose no more precision than large ones.
        assert ((found[1][0] - found[0][0]).norm(dim=-1) < 2 * bound * found[0][0].norm(dim=-1)).all()
    with capsys.disabled():
        shown = (f"{layer} {output:.1e} {gradient:.1e}" for layer, (output, gradient) in errors.items())
        print(f"\n{name} products, relative error of output and input gradient: " + ", ".join(shown))
    assert all(1e-3 < error < bound for pair in errors.values() for error in pair)


def test_layers_that_read_the_timestep_stay_as_they_are() -> None:
    layers = nn.ModuleDict({"norm1": nn.Linear(64, 64), "ff": nn.Linear(64, 64)}).to(torch.bfloat16)
    quantize_block(layers.requires_grad_(False), "int8", CPU, in_8_bits=True)
    assert [type(layer).__name__ for layer in layers.values()] == ["PackedLinear", "EightBitLinear"]


@pytest.mark.parametrize(("name", "capability", "refused"), [("fp8", (8, 6), True), ("fp8", (8, 9), False)])
def test_a_gpu_without_such_products_is_refused(
    name: str, capability: tuple[int, int], refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    compute = Compute(torch.device("cuda"), torch.bfloat16)
    with pytest.raises(UserError, match=r"needs compute capability 8\.9.*use quant=int8") if refused else nullcontext():
        check_products(Quant(name=name, compute="8bit"), compute)
