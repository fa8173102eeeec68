"""Values that processes exchange once per training step."""

from collections.abc import Iterable
from dataclasses import astuple, dataclass, field

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
    loss_sums: list[float] = field(default_factory=lambda: [0.0] * QUARTERS)
    """Sum of the samples' losses, by quarter of the timesteps."""
    samples: list[int] = field(default_factory=lambda: [0] * QUARTERS)
    """Samples in each quarter."""

    def add_losses(self, losses: Iterable[tuple[float, float]]) -> None:
        """Adds the (timestep, loss) of samples."""
        for timestep, loss in losses:
            quarter = min(int(timestep) // QUARTER, QUARTERS - 1)
            self.loss_sums[quarter] += loss
            self.samples[quarter] += 1

    def packed(self) -> list[float]:
        """The values as a list of numbers."""
        return [
            self.loss,
            float(self.stop),
            *map(float, astuple(self.work)),
            *self.loss_sums,
            *map(float, self.samples),
        ]


def unpacked(numbers: list[float]) -> StepNumbers:
    """The inverse of `StepNumbers.packed`."""
    loss, stop, clips, tokens, flops, *quarters = numbers
    work = Work(int(clips), int(tokens), flops)
    return StepNumbers(loss, bool(stop), work, quarters[:QUARTERS], [int(count) for count in quarters[QUARTERS:]])


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
