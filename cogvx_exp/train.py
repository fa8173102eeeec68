"""`python -m cogvx_exp.train`: fine-tune a CogVideoX model."""

import sys

from cogvx_exp.config.cli import EntryPoint
from cogvx_exp.config.rules import check_train
from cogvx_exp.config.schema import TrainJob


def run(job: TrainJob, overrides: list[str]) -> float | None:
    """Trains, and returns the objective that a sweep may search for."""
    from cogvx_exp.launch import launch

    return launch(job, overrides)


main = EntryPoint("train", TrainJob, run, check_train)

if __name__ == "__main__":
    sys.exit(main())
