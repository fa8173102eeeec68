"""`python -m cogvx_exp.train`: fine-tune a CogVideoX model."""

import sys

from cogvx_exp.config.command_line.entry_point import EntryPoint
from cogvx_exp.config.rules.jobs import check_train
from cogvx_exp.config.schema import TrainJob
from cogvx_exp.sweep.callback import check_sweep, note_failure, sweep_overrides


def run(job: TrainJob, overrides: list[str]) -> float | None:
    """Trains, and returns the objective of a sweep."""
    from cogvx_exp.launch.start import launch

    return launch(job, overrides)


main = EntryPoint("train", TrainJob, run, check_train, finish=check_sweep, extra=sweep_overrides, failed=note_failure)

if __name__ == "__main__":
    sys.exit(main())
