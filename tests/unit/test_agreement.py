"""Processes that train one model must have the same weights."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from cogvx_exp.distributed.process_group import ProcessGroup
from cogvx_exp.strategies.single import Strategy
from cogvx_exp.training.callbacks import Callbacks


class Pair(ProcessGroup):
    """This process and another one."""

    other: Any

    def all_gather(self, value: Any) -> list[Any]:
        return [value, self.other]


def fingerprint(weight: torch.Tensor) -> list[int]:
    strategy = Strategy.__new__(Strategy)
    model = nn.Module()
    model.weight = nn.Parameter(weight)
    strategy.transformer = model  # type: ignore[assignment]
    return strategy.fingerprint()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_smallest_difference_changes_the_fingerprint(dtype: torch.dtype) -> None:
    weight = torch.randn(7, 5).to(dtype)
    other = weight.clone()
    assert fingerprint(weight) == fingerprint(other)
    other[3, 2] = torch.nextafter(other[3, 2], torch.tensor(9.0, dtype=dtype))
    assert fingerprint(weight) != fingerprint(other)


@pytest.mark.parametrize(
    ("other", "agrees"), [(["cpu", [1, 2]], True), (["cpu", [1, 3]], False), (["another card", [1, 3]], True)]
)
def test_weights_that_differ_end_the_run_before_they_are_saved(other: list, agrees: bool) -> None:
    processes = Pair(1, 2)
    object.__setattr__(processes, "other", other)
    data = SimpleNamespace(compute=SimpleNamespace(device=torch.device("cpu")))
    state = SimpleNamespace(strategy=SimpleNamespace(fingerprint=lambda: [1, 2]))
    training = SimpleNamespace(state=state, first_step=0)
    job = SimpleNamespace(checkpoint=SimpleNamespace(keep_best=True), sweep=SimpleNamespace(objective="loss"))
    run = SimpleNamespace(processes=processes, data=data, training=training, job=job)
    callbacks = Callbacks(run, None)  # type: ignore
    if agrees:
        callbacks._check_agreement(3)
        return
    with pytest.raises(RuntimeError, match="processes 0 and 1 differ after step 3"):
        callbacks._check_agreement(3)
