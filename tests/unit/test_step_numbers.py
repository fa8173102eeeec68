"""The values that processes exchange in a step."""

import pytest

from cogvx_exp.training.monitor.step_numbers import StepNumbers, loss_by_timestep, unpacked
from cogvx_exp.training.monitor.throughput import Work


def test_numbers_arrive_as_they_were_sent_and_are_equally_many() -> None:
    sent = StepNumbers(0.25, True, Work(2, 600, 1.5e15))
    sent.add_losses([(10, 1.0), (20, 2.0), (999, 4.0)])
    assert unpacked(sent.packed()) == sent
    assert len(sent.packed()) == len(StepNumbers(0.5, False, Work()).packed())


def test_losses_of_all_processes_are_averaged_by_sample() -> None:
    first, second = (StepNumbers(0.0, False, Work()) for _ in range(2))
    first.add_losses([(0, 1.0), (249, 2.0)])
    second.add_losses([(100, 6.0), (250, 5.0)])
    assert loss_by_timestep([first, second]) == pytest.approx({"loss_t0_249": 3.0, "loss_t250_499": 5.0})
