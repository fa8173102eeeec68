"""The values that processes exchange in a step."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import ClassVar

import pytest
import torch

from cogvx_exp.diffusion.batch import Batch
from cogvx_exp.distributed.process_group import ProcessGroup
from cogvx_exp.strategies.micro_batch import forward_backward
from cogvx_exp.training.monitor.step_numbers import (
    NUMBERS,
    StepExchange,
    StepNumbers,
    loss_by_timestep,
    on_host,
    packed,
)
from cogvx_exp.training.monitor.throughput import Work

WORK = Work(2, 600, 1.5e15)


def numbers_of(loss: float, samples: list[tuple[float, float]], stop: bool = False) -> StepNumbers:
    values = packed(torch.tensor(loss), torch.tensor(samples).T, stop, WORK)
    (numbers,), _ = on_host(values[None], None)
    return numbers


def test_numbers_arrive_as_they_were_sent_and_are_equally_many() -> None:
    sent = packed(torch.tensor(0.25), torch.tensor([[10.0, 20, 999], [1, 2, 4]]), True, WORK)
    other = packed(torch.tensor(math.nan), torch.tensor([[500.0], [math.nan]]), False, Work())
    assert sent.shape == other.shape == (NUMBERS,)
    (first, second), norm = on_host(torch.stack([sent, other]), torch.tensor(0.5))
    assert first == StepNumbers(0.25, True, WORK, [3.0, 0.0, 0.0, 4.0], [2, 0, 0, 1])
    assert norm == 0.5
    assert math.isnan(second.loss)
    assert [math.isnan(total) for total in second.loss_sums] == [False, False, True, False]
    assert second.samples == [0, 0, 1, 0]


def test_losses_of_all_processes_are_averaged_by_sample() -> None:
    first = numbers_of(0.0, [(0, 1.0), (249, 2.0)])
    second = numbers_of(0.0, [(100, 6.0), (250, 5.0)])
    assert loss_by_timestep([first, second]) == pytest.approx({"loss_t0_249": 3.0, "loss_t250_499": 5.0})


class Noted(ProcessGroup):
    """Notes when an exchange starts and when its result is needed."""

    events: ClassVar[list[str]] = []

    def start_all_gather(self, numbers: torch.Tensor) -> Callable[[], torch.Tensor]:
        self.events.append("started")
        return lambda: self.events.append("needed") or numbers[None]


def test_the_exchange_starts_with_the_last_micro_batch_and_is_not_waited_for() -> None:
    events = Noted.events
    exchange = StepExchange(Noted(), 2, lambda: True)
    batches = [Batch(*[torch.zeros(1)] * 2, torch.tensor([at]), torch.zeros(1), [], []) for at in (10, 600)]
    exchange.add(batches[0], torch.tensor([1.0]), WORK)
    assert events == []
    exchange.add(batches[1], torch.tensor([3.0]), WORK)
    assert events == ["started"]
    (numbers,), _ = on_host(exchange.wait(), None)
    assert events == ["started", "needed"]
    assert numbers == StepNumbers(2.0, True, WORK + WORK, [1.0, 0.0, 3.0, 0.0], [1, 0, 1, 0])


class Passes:
    """Notes the backward pass."""

    model = torch.nn.Identity()

    def __init__(self) -> None:
        self.events: list[str] = []

    def autocast(self) -> nullcontext[None]:
        return nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        self.events.append(f"backward of {loss.item():g}")


def test_losses_can_be_exchanged_before_the_backward_pass() -> None:
    passes, batch = Passes(), Batch(*[torch.zeros(1)] * 4, [], [])

    def between(losses: torch.Tensor) -> None:
        passes.events.append(f"exchange of {losses.tolist()}")

    forward_backward(passes, lambda *_: torch.tensor([2.0, 4.0]), batch, 3, between=between)
    assert passes.events == ["exchange of [2.0, 4.0]", "backward of 1"]
