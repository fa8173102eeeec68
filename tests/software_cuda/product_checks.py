"""Parts of the product on the software device, in a pytest of their own with two devices."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from cogvx_exp.errors import UserError
from cogvx_exp.model.device import check_devices, choose_compute
from cogvx_exp.team import Team
from cogvx_exp.training.sharded import DeepSpeed

GPU = torch.device("cuda")
MODEL = SimpleNamespace(dtype="float32", native_dtype="float32")


@pytest.mark.parametrize("stage", [2, 3])
def test_a_resumed_fused_step_has_its_counter_on_the_device(stage: int) -> None:
    flat = nn.Parameter(torch.ones(8, device=GPU))
    stepper = DeepSpeed.__new__(DeepSpeed)
    stepper._stage = stage
    stepper.optimizer = torch.optim.AdamW([flat], fused=True)
    stepper._zero = SimpleNamespace(
        fp32_partitioned_groups_flat=[flat],
        single_partition_of_fp32_groups=[flat],
        _lazy_init_hp_params_optimizer_state=lambda: None,
        optimizer=stepper.optimizer,
    )
    stepper._make_states()
    stepper._set_steps(5.0)
    flat.grad = torch.ones_like(flat)
    stepper.optimizer.step()
    assert stepper._steps() == 6


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


class Others(Team):
    def exchange(self, value: Any) -> list[Any]:
        return [value, value if self.world == 2 else "another"]


def test_two_processes_may_not_share_a_gpu() -> None:
    with pytest.raises(UserError, match="processes 0 and 1 would share one GPU"):
        check_devices(Others(0, 2), GPU)
