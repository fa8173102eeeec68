"""The training loop."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NoReturn

import torch

from cogvx_exp.console.progress import Bar
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.randomness import keyed_seed
from cogvx_exp.diffusion.batch import Batch
from cogvx_exp.diffusion.denoise import Loss
from cogvx_exp.distributed.process_group import ProcessGroup
from cogvx_exp.profiling.ranges import NoProfiler, Profiler
from cogvx_exp.runs.metrics import Metrics, NoMetrics
from cogvx_exp.strategies.micro_batch import forward_backward
from cogvx_exp.tracking.smoothing import smoother
from cogvx_exp.training.checkpoint.state import TrainingState
from cogvx_exp.training.monitor.memory import memory_in_use
from cogvx_exp.training.monitor.step_numbers import StepExchange, loss_by_timestep, on_host
from cogvx_exp.training.monitor.throughput import Work, WorkMeter, peak_flops


@dataclass(frozen=True)
class Callback:
    """A function called between steps."""

    run: Callable[[int], None]
    """Called with the number of the completed step."""
    every: int | None
    """Interval in steps; None: never."""
    at_end: bool = True
    """Whether it also runs after the last step."""

    def is_due(self, step: int, last: int) -> bool:
        """Whether it runs after this step."""
        return self.at_end if step == last else bool(self.every and step % self.every == 0)


@dataclass(frozen=True)
class LoopConfig:
    """Settings of the loop."""

    first_step: int
    """Completed steps."""
    steps: int
    accumulation: int
    max_grad_norm: float | None
    seed: int
    processes: ProcessGroup
    wants_stop: Callable[[], bool]
    """Whether this process was asked to stop after the current step."""
    callbacks: list[Callback]
    """Called between steps, in this order."""
    smoothed_loss: float | None = None
    """Smoothed loss of the completed steps, if known."""
    profiler: Profiler = field(default_factory=NoProfiler)
    """Is told which part of a step begins and ends."""


@dataclass(frozen=True)
class StepResult:
    """Results of one optimizer step."""

    loss: float
    """Mean over the step's samples."""
    grad_norm: float
    """Global norm before clipping."""
    data_seconds: float
    """Time spent waiting for batches."""
    stop: bool
    """Whether a process was asked to stop."""
    work: Work
    """Summed over all processes."""
    by_timestep: dict[str, float]
    """Mean loss of the samples in each part of the schedule, as `loss_t0_249`."""


def train_loop(
    state: TrainingState,
    batches: Iterator[Batch],
    loss: Loss,
    metrics: Metrics | NoMetrics,
    schedule: LoopConfig,
) -> int:
    """Trains from `schedule.first_step` to `schedule.steps`, or until asked to stop. Returns the last completed step.

    Raises:
        UserError: the loss is not finite; names the step's clips.
    """
    step, smoothed, profiler = schedule.first_step, schedule.smoothed_loss, schedule.profiler
    meter = WorkMeter(state.transformer.config, state.strategy.shapes())
    # Cards' peaks are those of 16-bit products, with which a float32 run cannot be compared.
    peak = peak_flops(state.transformer.device) if state.strategy.computes_in_16_bit else None
    with Bar("Training", schedule.steps, schedule.first_step) as bar:
        for step in range(schedule.first_step + 1, schedule.steps + 1):
            # Without a synchronization of its own: copying the losses synchronizes once per step, and the optimizer's
            # kernels count in the next one.
            started = time.perf_counter()
            # Read before the step, which sets the next one's.
            lr = float(state.lr_scheduler.get_last_lr()[0])
            result = _optimizer_step(state, batches, loss, schedule, step, meter)
            seconds = time.perf_counter() - started
            # The peak since the last record, as the memory at this moment is that between two steps.
            memory = memory_in_use(state.transformer.device)
            # With the step's number, not a count from here: a resumed run goes on with the same average.
            smoothed = smoother(result.loss if smoothed is None else smoothed, result.loss, step)
            used = (
                {"mfu": round(result.work.flops / seconds / (peak * schedule.processes.world_size), 4)} if peak else {}
            )
            with profiler.range("logging"):
                metrics.write(
                    step=step,
                    loss=result.loss,
                    loss_smoothed=smoothed,
                    **result.by_timestep,
                    lr=lr,
                    grad_norm=result.grad_norm,
                    step_seconds=round(seconds, 4),
                    data_seconds=round(result.data_seconds, 4),
                    clips_per_second=round(result.work.clips / seconds, 3),
                    tokens_per_second=round(result.work.tokens / seconds, 1),
                    **used,
                    memory_gib=round(memory, 3),
                )
                bar.show(step, f"loss {smoothed:.4f}  lr {lr:.2e}  {seconds:.2f} s/step  {memory:.1f} GiB")
            with profiler.range("between steps"):
                # After the metrics line, so that a crash in a callback does not lose it.
                for action in schedule.callbacks:
                    if action.is_due(step, schedule.steps):
                        action.run(step)
            profiler.end_step()
            if result.stop:
                break
    return step


def _optimizer_step(
    state: TrainingState,
    batches: Iterator[Batch],
    loss: Loss,
    schedule: LoopConfig,
    step: int,
    meter: WorkMeter,
) -> StepResult:
    """Accumulates gradients over the step's batches, then steps the weights."""
    strategy, processes, around = state.strategy, schedule.processes, schedule.profiler.range
    exchange, waited, clips = StepExchange(processes, schedule.accumulation, schedule.wants_stop), 0.0, []

    def between_passes(losses: torch.Tensor) -> None:
        with around("exchange"):
            exchange.add(batch, losses, meter.of(batch))

    for number in range(1, schedule.accumulation + 1):
        waiting_since = time.perf_counter()
        with around("data wait"):
            batch = next(batches)
        waited += time.perf_counter() - waiting_since
        clips += batch.clips
        # Adapter dropout is keyed like all other randomness, so a resumed run draws the same masks.
        torch.manual_seed(keyed_seed(schedule.seed, batch.samples[0], "dropout"))
        with strategy.accumulating(last=number == schedule.accumulation):
            forward_backward(strategy, loss, batch, schedule.accumulation, around, between_passes)
    with around("clip"):
        # Before the losses reach the host: the norm then comes with them in the same copy.
        norm = strategy.clip(schedule.max_grad_norm)
    with around("exchange"):
        numbers = exchange.wait()
    with around("losses to the host"):
        gathered, grad_norm = on_host(numbers, norm)
    value = sum(process.loss for process in gathered) / len(gathered)
    # Checked before the step, so nothing non-finite enters the weights or the optimizer's moments.
    if not math.isfinite(value):
        _refuse_non_finite(value, step, [] if math.isfinite(gathered[processes.rank].loss) else clips, processes)
    if processes.world_size > 1:
        # Stochastic rounding draws from the global generator, whose state differs between processes by now.
        torch.manual_seed(strategy.rounding_seed(schedule.seed, step))
    with around("optimizer"):
        # The strategy counts micro-batches itself, so accelerate's own accumulation is never used.
        norm_of_step = strategy.step()
        state.lr_scheduler.step()
        state.update_ema()
    # All processes stop after the same step, so a request that comes during the backward pass waits for the next one.
    several = processes.world_size > 1
    return StepResult(
        value,
        grad_norm if norm_of_step is None else norm_of_step,
        waited,
        stop=any(process.stop for process in gathered) if several else schedule.wants_stop(),
        work=sum((process.work for process in gathered), Work()),
        by_timestep=loss_by_timestep(gathered),
    )


def _refuse_non_finite(loss: float, step: int, suspects: list[str], processes: ProcessGroup) -> NoReturn:
    """Ends the run; `suspects`: this process's clips of the step, if its loss is not finite."""
    # All processes take this branch together, because all have the same mean; otherwise this would hang.
    gathered = processes.all_gather(suspects)
    bad = sorted({clip for clips_of_process in gathered for clip in clips_of_process})
    raise UserError(
        f"the loss is {loss} at step {step} (clips: {', '.join(bad)}); the last checkpoint is kept. "
        "Lower optim.lr, check these clips, or use model.dtype=float32"
    )
