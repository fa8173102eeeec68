"""Profiles the training loop of a run, if the run asks for it."""

from collections.abc import Iterator
from contextlib import contextmanager

from cogvx_exp.console.progress import console
from cogvx_exp.profiling.ranges import NoProfiler, Profiler
from cogvx_exp.training.context import Context
from cogvx_exp.training.monitor.throughput import peak_flops


@contextmanager
def profiled(run: Context) -> Iterator[Profiler]:
    """Inside, steps are profiled with `profile=true`: in the main process, and if the run has enough of them left."""
    settings, training = run.job.profile, run.training
    if not settings.enabled or not run.processes.is_main_process:
        yield NoProfiler()
        return
    left, needed = training.steps - training.first_step, settings.skip + settings.warmup + settings.record
    if left < needed:
        if left:
            console.print(f"Note: {left} steps are left and profile=true needs {needed}: nothing is profiled")
        yield NoProfiler()
        return
    if run.processes.world_size > 1:
        console.print(f"Process 0 of {run.processes.world_size} is profiled")
    from cogvx_exp.profiling.recorder import StepRecorder

    strategy = training.state.strategy
    with StepRecorder(
        settings,
        training.transformer,
        run.folder.profile,
        done=training.first_step,
        peak_flops=peak_flops(training.transformer.device) if strategy.computes_in_16_bit else None,
    ) as recorder:
        yield recorder
