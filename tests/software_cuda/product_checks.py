"""Parts of the product on the software device, in a pytest of their own with two devices."""

import gc
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from cogvx_exp.core.errors import UserError
from cogvx_exp.distributed.process_group import ProcessGroup
from cogvx_exp.latents.encode import to_pixels
from cogvx_exp.model.device import Compute, check_devices, choose_compute
from cogvx_exp.model.offload.module import on_host
from cogvx_exp.model.quantization.quantize import quantize_block
from cogvx_exp.strategies.deepspeed import DeepSpeed

GPU = torch.device("cuda")
MODEL = SimpleNamespace(dtype="float32", native_dtype="float32")


@pytest.mark.parametrize("stage", [2, 3])
def test_a_resumed_fused_step_has_its_counter_on_the_device(stage: int) -> None:
    flat = nn.Parameter(torch.ones(8, device=GPU))
    strategy = DeepSpeed.__new__(DeepSpeed)
    strategy._stage = stage
    strategy.optimizer = torch.optim.AdamW([flat], fused=True)
    strategy._zero = SimpleNamespace(
        fp32_partitioned_groups_flat=[flat],
        single_partition_of_fp32_groups=[flat],
        _lazy_init_hp_params_optimizer_state=lambda: None,
        optimizer=strategy.optimizer,
    )
    strategy._make_states()
    strategy._set_steps(5.0)
    flat.grad = torch.ones_like(flat)
    strategy.optimizer.step()
    assert strategy._steps() == 6


def test_the_chosen_gpu_is_the_current_one() -> None:
    try:
        choose_compute("cuda:1", MODEL)  # type: ignore[arg-type]
        assert torch.cuda.current_device() == 1
    finally:
        torch.cuda.set_device(0)
    with pytest.raises(UserError, match="has 2 CUDA GPU"):
        choose_compute("cuda:2", MODEL)  # type: ignore[arg-type]


def test_pinned_memory_takes_what_it_needs() -> None:
    choose_compute("cuda", MODEL)  # type: ignore[arg-type]
    library = torch._C._software_cuda
    before = library.usage(0)["pinned"]
    kept = torch.empty((1 << 20) + 4096, dtype=torch.uint8, pin_memory=True)
    assert library.usage(0)["pinned"] - before == len(kept)


class Others(ProcessGroup):
    def all_gather(self, value: Any) -> list[Any]:
        return [value, value if self.world_size == 2 else "another"]


def test_two_processes_may_not_share_a_gpu() -> None:
    with pytest.raises(UserError, match="processes 0 and 1 would share one GPU"):
        check_devices(Others(0, 2), GPU)


def test_what_is_trained_survives_a_while_on_the_host() -> None:
    """The hooks of DistributedDataParallel hang on the gradient accumulators, which must stay the same."""
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).to(GPU)
    module[0].requires_grad_(False)
    trained, before = module[1].weight, [parameter.cpu() for parameter in module.parameters()]
    accumulator = trained.view_as(trained).grad_fn.next_functions[0][0]
    allocated = torch.cuda.memory_allocated()
    pinned = torch._C._software_cuda.usage(0)["pinned"]
    for number in range(2):
        with torch.no_grad():
            trained.add_(1)
            before[2] += 1
        with on_host(module, GPU):
            assert torch.cuda.memory_allocated() == allocated - 4 * 512, "nothing is left of two weights and two biases"
        assert torch.cuda.memory_allocated() == allocated
        if number == 0:
            kept = torch._C._software_cuda.usage(0)["pinned"] - pinned
    assert torch._C._software_cuda.usage(0)["pinned"] - pinned == kept, "the copies have room once"
    assert trained.view_as(trained).grad_fn.next_functions[0][0] is accumulator
    for parameter, expected in zip(module.parameters(), before, strict=True):
        assert parameter.device == torch.device("cuda:0")
        assert torch.equal(parameter.cpu(), expected)


@pytest.mark.parametrize("name", ["nf4", "int8", "fp8"])
def test_a_packed_base_survives_a_while_on_the_host(name: str) -> None:
    gc.collect()
    before = torch.cuda.memory_allocated()
    block = nn.Sequential(nn.Linear(64, 192), nn.Linear(192, 64)).to(torch.bfloat16).requires_grad_(False)
    quantize_block(block, name, Compute(GPU, torch.bfloat16))
    x = torch.randn(2, 64)
    with torch.no_grad():
        expected = block(x.to(GPU, torch.bfloat16)).cpu()
        with on_host(block, GPU):
            left = torch.cuda.memory_allocated() - before
            assert left <= (5 * 512 if name == "nf4" else 0), "tables that bitsandbytes makes once for all layers"
        assert torch.equal(block(x.to(GPU, torch.bfloat16)).cpu(), expected)


@pytest.mark.parametrize("name", ["nf4", "int8", "fp8"])
def test_a_packed_base_on_the_device_keeps_nothing_unpacked(name: str) -> None:
    block = nn.Sequential(nn.Linear(64, 192), nn.Linear(192, 64)).to(torch.bfloat16).requires_grad_(False)
    quantize_block(block, name, Compute(GPU, torch.bfloat16))
    assert all(parameter.device.type == "cuda" for parameter in block.parameters())
    x, kept = torch.randn(2, 64, device=GPU, requires_grad=True), []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    kept_tensors = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with kept_tensors, torch.autocast("cuda", torch.bfloat16):
        block(x).float().sum().backward()
    assert x.grad.dtype == torch.float32
    assert max(kept, default=0) < 64 * 192 // 2


class Copies(TorchDispatchMode):
    """Notes the types of what is copied to the device."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: list[torch.dtype] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function is torch.ops.aten._to_copy.default and args[0].device != result.device:
            self.dtypes.append(args[0].dtype)
        return result


def test_pixels_cross_to_the_device_as_bytes_and_without_a_wait() -> None:
    clips = list(np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5, 3), dtype=np.uint8))
    waits = torch._C._software_cuda.synchronizations()
    with Copies() as copies:
        pixels = to_pixels(clips, GPU)
    assert copies.dtypes == [torch.uint8]
    assert torch._C._software_cuda.synchronizations() == waits
    expected = torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    assert torch.equal(pixels.cpu(), expected)
    assert torch.equal(to_pixels(clips, torch.device("cpu")), expected)
