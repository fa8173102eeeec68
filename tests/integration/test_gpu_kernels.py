"""Kernels on the real device against float32, and nccl. Skipped where there is no GPU.

`python -m benchmarks.gpu tests` runs these and writes their results down.
"""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from cogvx_exp.model.attention.backends import attention_function, check_attention
from cogvx_exp.model.device import Compute
from cogvx_exp.model.quantization.quantize import quantize_block
from cogvx_exp.optim.build import build_optimizer
from tests.conftest import MakeJob, needs_compiler

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

GPU = torch.device("cuda")
TOKENS, WIDTH = 300, 256
QUANTIZED = {"nf4": 0.2, "int8": 0.02, "fp8": 0.06, "int8 in 8 bits": 0.03, "fp8 in 8 bits": 0.08}
"""Largest relative error of two layers."""
KERNELS = ["auto", "flash", "cudnn", "efficient", "flex"]
OPTIMIZERS = {
    "adamw": 1e-4,
    "adamw8bit": 0.05,
    "paged_adamw8bit": 0.05,
    "ao_adamw": 1e-3,
    "ao_adamw8bit": 0.05,
    "ao_adamw4bit": 0.5,
    "ao_adamw_fp8": 0.1,
    "cpu_offload": 1e-4,
    "cpu_offload8bit": 0.05,
}
"""Largest relative error of how far twenty steps move a weight."""


def error_of(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative, of the tensor as a whole."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", QUANTIZED)
def test_packed_layers_compute_what_float32_does(name: str) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)).requires_grad_(False)
    packed = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)).requires_grad_(False)
    packed.load_state_dict(plain.state_dict())
    how, _, in_8_bits = name.partition(" in ")
    quantize_block(packed.to(torch.bfloat16), how, Compute(GPU, torch.bfloat16), in_8_bits=bool(in_8_bits))
    x, gradient = torch.randn(TOKENS, WIDTH), torch.randn(TOKENS, WIDTH)
    ours, theirs = x.to(GPU).requires_grad_(), x.clone().requires_grad_()
    with torch.autocast("cuda", torch.bfloat16):
        product = packed(ours)
    product.backward(gradient.to(GPU, product.dtype))
    expected = plain(theirs)
    expected.backward(gradient)
    for error in (error_of(product, expected), error_of(ours.grad, theirs.grad)):
        assert 1e-3 < error < QUANTIZED[name], "not exact, since it is packed"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_move_weights_as_adamw_in_float32(name: str, make_job: MakeJob) -> None:
    """Weights are large enough for states of 8 and of 4 bits."""
    needs_compiler(name)
    if name.startswith("paged") and torch.cuda.get_device_name().startswith("Software"):
        pytest.skip("the software device has no paged memory")
    optim = make_job(f"optim={name}", "optim.lr=0.01", "device=cuda").optim
    torch.manual_seed(0)
    start, aim = torch.randn(256, 512), torch.randn(256, 512)
    ours, theirs = nn.Parameter(start.to(GPU, copy=True)), nn.Parameter(start.clone())
    settings = {"lr": optim.lr, "betas": tuple(optim.betas), "eps": optim.eps, "weight_decay": optim.weight_decay}
    optimizers = [build_optimizer({"weight": ours}, optim, GPU), torch.optim.AdamW([theirs], **settings)]
    for _ in range(20):
        for weight, optimizer in zip((ours, theirs), optimizers, strict=True):
            (weight - aim.to(weight.device)).square().mul(0.5).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert (theirs.detach() - start).abs().mean() > 0.05, "it moved"
    assert error_of(ours.cpu() - start, theirs - start) < OPTIMIZERS[name]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", KERNELS)
def test_attention_forward_and_backward(name: str, dtype: torch.dtype, make_job: MakeJob) -> None:
    if name not in ("auto", "flash") and torch.cuda.get_device_name().startswith("Software"):
        pytest.skip("the software device has no such kernel")
    settings = make_job(f"attention={name}", "compile=blocks", "device=cuda").attention
    check_attention(settings, Compute(GPU, dtype))
    attend = attention_function(settings)
    attend = torch.compile(attend) if settings.needs_compile else attend
    torch.manual_seed(0)
    inputs = [torch.randn(1, TOKENS, 4, 64) for _ in range(3)]
    ours = [tensor.to(GPU, dtype).requires_grad_() for tensor in inputs]
    theirs = [tensor.clone().requires_grad_() for tensor in inputs]
    found = attend(*ours)
    expected = scaled_dot_product_attention(*(tensor.transpose(1, 2) for tensor in theirs)).transpose(1, 2)
    gradient = torch.randn_like(expected)
    found.backward(gradient.to(GPU, dtype))
    expected.backward(gradient)
    assert error_of(found, expected) < 0.02
    for our, their in zip(ours, theirs, strict=True):
        assert error_of(our.grad, their.grad) < 0.02


@pytest.fixture
def nccl_of_one() -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_nccl_runs_the_collectives_that_training_uses(nccl_of_one: None) -> None:
    """With one process they change nothing; with several see test_gpu.py."""
    values = torch.arange(8.0, device=GPU)
    gathered, scattered = torch.zeros_like(values), torch.zeros_like(values)
    reduced = values.clone()
    dist.all_reduce(reduced)
    dist.broadcast(reduced, 0)
    dist.all_gather_into_tensor(gathered, values)
    dist.reduce_scatter_tensor(scattered, values)
    for result in (reduced, gathered, scattered):
        assert torch.equal(result, values)
