"""`python -m cogvx_exp.prepare`: encode a dataset before training, or inspect it."""

import sys

from cogvx_exp.config.command_line.entry_point import EntryPoint
from cogvx_exp.config.rules.jobs import check_prepare
from cogvx_exp.config.schema import PrepareJob


def run(job: PrepareJob, overrides: list[str]) -> None:
    """Fills the cache, or inspects the dataset."""
    from cogvx_exp.launch.preparation import encode, inspect

    (inspect if job.mode == "inspect" else encode)(job)


main = EntryPoint("prepare", PrepareJob, run, check_prepare)

if __name__ == "__main__":
    sys.exit(main())
