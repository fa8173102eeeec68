"""`python -m cogvx_exp.prepare`: encode a dataset before training, inspect it, or make one from footage."""

import sys

from cogvx_exp.config.command_line.entry_point import EntryPoint
from cogvx_exp.config.rules.jobs import check_prepare
from cogvx_exp.config.schema import PrepareJob


def run(job: PrepareJob, overrides: list[str]) -> None:
    """Runs the mode."""
    from cogvx_exp.launch.preparation import encode, inspect, make_dataset, review

    {"encode": encode, "inspect": inspect, "review": review}.get(job.mode, make_dataset)(job)


main = EntryPoint("prepare", PrepareJob, run, check_prepare)

if __name__ == "__main__":
    sys.exit(main())
