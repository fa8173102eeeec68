"""Profiles the training loop if `profile=true`."""

from collections.abc import Iterator
from contextlib import contextmanager

from cogvx_exp.console.progress import console
from cogvx_exp.profiling.ranges import NoProfiler, Profiler
from cogvx_exp.training.context import Context
from cogvx_exp.training.monitor.throughput import peak_flops


@contextmanager
def profiled(run: Context) -> Iterator[Profiler]:
    """Profiles the steps inside if `profile=true`, in the main process only, and if enough steps are left."""
    settings, training = run.job.profile, run.training
    if not settings.enabled or not run.processes.is_main_process:
        yield NoProfiler()
        return
    remaining, needed = training.steps - training.first_step, settings.skip + settings.warmup + settings.record
    if remaining < needed:
        if remaining:
            console.print(f"Note: not profiling: profile=true needs {needed} steps, the run has {remaining} left")
        yield NoProfiler()
        return
    if run.processes.world_size > 1:
        console.print(f"Profiling process 0 of {run.processes.world_size}")
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
