"""`python -m cogvx_exp.memory`: predict a run's memory without a GPU, data or download.

It takes the same settings as `train`.
"""

import sys
from typing import Any

from cogvx_exp.config.command_line.entry_point import EntryPoint
from cogvx_exp.config.rules.jobs import check_memory
from cogvx_exp.config.schema import TrainJob
from cogvx_exp.console.quiet import quiet_libraries


def run(job: TrainJob, overrides: list[str]) -> Any:
    """Predicts one run."""
    quiet_libraries()
    from cogvx_exp.estimate.command import estimate

    return estimate(job, overrides)


def show(estimates: list[Any]) -> None:
    """Prints and plots the predictions."""
    from cogvx_exp.estimate.command import show

    show(estimates)


def no_folders(overrides: list[str]) -> list[str]:
    """Hydra overrides that avoid creating folders for the jobs of a sweep."""
    return ["hydra.sweep.dir=outputs/memory", "hydra.sweep.subdir=."]


main = EntryPoint("memory", TrainJob, run, check_memory, config="train", finish=show, extra=no_folders)

if __name__ == "__main__":
    sys.exit(main())
