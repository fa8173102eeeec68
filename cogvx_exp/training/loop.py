"""The training loop."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from cogvx_exp.data.samples import Batch
from cogvx_exp.diffusion.denoise import Loss
from cogvx_exp.errors import UserError
from cogvx_exp.randomness import keyed_seed
from cogvx_exp.team import Team
from cogvx_exp.tracking.progress import Bar
from cogvx_exp.tracking.run_folder import Metrics, NoMetrics
from cogvx_exp.training.checkpoint import TrainingState
from cogvx_exp.training.memory import memory_in_use


@dataclass(frozen=True)
class Action:
    """Something to do between steps."""

    run: Callable[[int], None]
    """Is given the number of the step that was done."""
    every: int | None
    """Steps between two times; None: never."""
    at_end: bool = True
    """Whether it is also done after the last step."""

    def is_due(self, step: int, last: int) -> bool:
        """Whether it is to be done after this step."""
        return self.at_end if step == last else bool(self.every and step % self.every == 0)


@dataclass(frozen=True)
class Schedule:
    """How long, how often."""

    first_step: int
    """Steps that are already done."""
    steps: int
    accumulation: int
    max_grad_norm: float | None
    seed: int
    team: Team
    wants_stop: Callable[[], bool]
    """Whether this process was asked to stop after the step."""
    actions: list[Action]
    """What is done between steps, in this order."""


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step tells."""

    loss: float
    """Mean over the step's samples."""
    grad_norm: float
    """Global norm before it was cut."""
    data_seconds: float
    """Time spent waiting for batches."""
    stop: bool
    """Whether a process was asked to stop."""


def train_loop(
    state: TrainingState,
    batches: Iterator[Batch],
    loss: Loss,
    metrics: Metrics | NoMetrics,
    schedule: Schedule,
) -> int:
    """Trains from `schedule.first_step` to `schedule.steps`, or until asked to stop. Returns the last step done.

    Raises:
        UserError: the loss is not finite; the step's clips are named.
    """
    step = schedule.first_step
    with Bar("Training", schedule.steps, schedule.first_step) as bar:
        for step in range(schedule.first_step + 1, schedule.steps + 1):
            started = time.perf_counter()
            lr = float(state.lr_scheduler.get_last_lr()[0])
            result = _optimizer_step(state, batches, loss, schedule, step)
            seconds = time.perf_counter() - started
            memory = memory_in_use(state.transformer.device)
            metrics.write(
                step=step,
                loss=result.loss,
                lr=lr,
                grad_norm=result.grad_norm,
                step_seconds=round(seconds, 4),
                data_seconds=round(result.data_seconds, 4),
                memory_gib=round(memory, 3),
            )
            bar.show(step, f"loss {result.loss:.4f}  lr {lr:.2e}  {seconds:.2f} s/step  {memory:.1f} GiB")
            for action in schedule.actions:
                if action.is_due(step, schedule.steps):
                    action.run(step)
            if result.stop:
                break
    return step


def _optimizer_step(
    state: TrainingState,
    batches: Iterator[Batch],
    loss: Loss,
    schedule: Schedule,
    step: int,
) -> StepResult:
    """Accumulates gradients over the step's batches, then moves the weights."""
    stepper, device = state.stepper, state.transformer.device
    total, waited, clips = torch.zeros((), device=device), 0.0, []
    for number in range(1, schedule.accumulation + 1):
        waiting_since = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - waiting_since
        clips += batch.clips
        torch.manual_seed(keyed_seed(schedule.seed, batch.samples[0], "dropout"))
        with stepper.accumulating(last=number == schedule.accumulation):
            with stepper.autocast():
                batch_loss = loss(stepper.model, batch).mean()
            stepper.backward(batch_loss / schedule.accumulation)
        total += batch_loss.detach() / schedule.accumulation
    told = schedule.team.exchange({"loss": total.item(), "clips": sorted(set(clips)), "stop": schedule.wants_stop()})
    value = sum(one["loss"] for one in told) / len(told)
    if not math.isfinite(value):
        bad = sorted({clip for one in told if not math.isfinite(one["loss"]) for clip in one["clips"]})
        raise UserError(
            f"the loss is {value} at step {step} (clips: {', '.join(bad)}); the last checkpoint is kept. "
            "Lower optim.lr, check these clips, or use model.dtype=float32"
        )
    grad_norm = stepper.step(schedule.max_grad_norm)
    state.lr_scheduler.step()
    state.update_average()
    return StepResult(value, grad_norm, waited, stop=any(one["stop"] for one in told))
