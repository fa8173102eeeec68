"""Values that processes exchange once per training step."""

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields

import torch

from cogvx_exp.diffusion.batch import Batch
from cogvx_exp.distributed.process_group import ProcessGroup
from cogvx_exp.training.monitor.throughput import Work

QUARTER = 250
QUARTERS = 4
"""The loss is reported for each quarter of a schedule of 1000 timesteps."""


@dataclass(frozen=True)
class StepNumbers:
    """The values of one process. Their number is fixed, so a single collective can carry them."""

    loss: float
    stop: bool
    """Whether the process was asked to stop."""
    work: Work
    loss_sums: list[float]
    """Sum of the samples' losses, by quarter of the timesteps."""
    samples: list[int]
    """Samples in each quarter."""


NUMBERS = 2 + len(fields(Work)) + 2 * QUARTERS
"""How many numbers a `StepNumbers` has."""


class StepExchange:
    """Collects the values of one step and exchanges them between the processes.

    The exchange starts before the step's last backward pass, where all values are known, and overlaps with it. The
    values stay on the device, so that nothing waits for it until `finish`.

    Args:
        processes: the processes that train together.
        accumulation: micro-batches per step.
        wants_stop: whether this process was asked to stop.
    """

    def __init__(self, processes: ProcessGroup, accumulation: int, wants_stop: Callable[[], bool]):
        self._processes, self._accumulation, self._wants_stop = processes, accumulation, wants_stop
        self._total = torch.zeros(())
        self._samples: list[torch.Tensor] = []
        self._work = Work()
        self._gathered: Callable[[], torch.Tensor] | None = None

    def add(self, batch: Batch, losses: torch.Tensor, work: Work) -> None:
        """Adds a micro-batch after its forward pass. The last one of the step starts the exchange."""
        mean = losses.mean() / self._accumulation
        self._total = self._total + mean if self._samples else mean
        self._samples.append(torch.stack([batch.timesteps.float(), losses]))
        self._work += work
        if len(self._samples) == self._accumulation:
            numbers = packed(self._total, torch.cat(self._samples, dim=1), self._wants_stop(), self._work)
            self._gathered = self._processes.start_all_gather(numbers)

    def wait(self) -> torch.Tensor:
        """The values of all processes on the device: (processes, NUMBERS)."""
        assert self._gathered, "all micro-batches of the step were added"
        return self._gathered()


def packed(loss: torch.Tensor, samples: torch.Tensor, stop: bool, work: Work) -> torch.Tensor:
    """The values of one process as float64, (NUMBERS,), on the device of the loss, without waiting for it.

    Args:
        loss: mean loss of the step.
        samples: timesteps and losses of its samples, (2, samples).
        stop: whether the process was asked to stop.
        work: the step's work.
    """
    loss, (timesteps, losses) = loss.double(), samples.double()
    quarters = (timesteps // QUARTER).clamp(max=QUARTERS - 1)
    inside = quarters == torch.arange(QUARTERS, device=loss.device)[:, None]
    sums = torch.where(inside, losses, 0.0).sum(dim=1)
    # Filled on the device: copying these from the host would wait for it.
    known = [torch.full_like(loss, value) for value in (float(stop), *astuple(work))]
    return torch.cat([torch.stack([loss, *known]), sums, inside.sum(dim=1)])


def unpacked(numbers: list[float]) -> StepNumbers:
    """The inverse of `packed`."""
    loss, stop, clips, tokens, flops, *quarters = numbers
    work = Work(int(clips), int(tokens), flops)
    return StepNumbers(loss, bool(stop), work, quarters[:QUARTERS], [int(count) for count in quarters[QUARTERS:]])


def on_host(gathered: torch.Tensor, norm: torch.Tensor | None) -> tuple[list[StepNumbers], float]:
    """Copies a step's values to the host in a single transfer, the only synchronization of a step on a GPU.

    It precedes the optimizer step, so the host can queue that step and the next one's work without waiting.

    Args:
        gathered: the values of all processes, (processes, NUMBERS).
        norm: norm of the gradients, if already known.

    Returns:
        The values of each process, and the norm, NaN if unknown.
    """
    known = gathered.new_full((), math.nan) if norm is None else norm.to(gathered)
    *values, grad_norm = torch.cat([gathered.flatten(), known.reshape(1)]).tolist()
    return [unpacked(values[start : start + NUMBERS]) for start in range(0, len(values), NUMBERS)], grad_norm


def loss_by_timestep(gathered: list[StepNumbers]) -> dict[str, float]:
    """Mean loss of the samples of all processes in each quarter of the timesteps; quarters without samples are left
    out."""
    means = {}
    for quarter in range(QUARTERS):
        if count := sum(numbers.samples[quarter] for numbers in gathered):
            low = quarter * QUARTER
            total = sum(numbers.loss_sums[quarter] for numbers in gathered)
            means[f"loss_t{low}_{low + QUARTER - 1}"] = total / count
    return means
