"""A worker that does a share of `prepare`. Independent of Hydra: its job is JSON on standard input."""

import sys

from cogvx_exp.config.schema import PrepareJob
from cogvx_exp.console.log import configured_logging
from cogvx_exp.console.terminal import never_fail_to_print, visible
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.imports import expect_one_command
from cogvx_exp.data.dataset import load_dataset
from cogvx_exp.launch.preparation import encode_share, work_on_share


def main() -> int:
    """Does this process's share; returns the exit code."""
    never_fail_to_print()
    expect_one_command()
    try:
        job = PrepareJob.model_validate_json(sys.stdin.read())
        with configured_logging():
            if job.mode == "encode":
                encode_share(job, load_dataset(job.data, job.cache_dir))
            else:
                work_on_share(job)
    except UserError as error:
        print(visible(str(error)), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
