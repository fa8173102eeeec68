"""A training worker. Independent of Hydra: its job is a file."""

import logging
import os
import sys
import traceback
from pathlib import Path

from cogvx_exp.console.log import configured_logging
from cogvx_exp.console.progress import console
from cogvx_exp.console.quiet import quiet_libraries
from cogvx_exp.console.terminal import never_fail_to_print
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.imports import expect_one_command
from cogvx_exp.data.dataset import load_dataset
from cogvx_exp.launch.disk import disk_trouble
from cogvx_exp.launch.workers.job_files import read_job, write_failure
from cogvx_exp.launch.workers.processes import die_with_parent
from cogvx_exp.runs.checkpoint_folder import open_checkpoint
from cogvx_exp.runs.run_folder import RunFolder
from cogvx_exp.training.stopping import EXIT_CODE, Stopped, before_exit

logger = logging.getLogger(__name__)


def main() -> int:
    """Trains, and returns the exit code. An error is left as a file for the parent process."""
    # Again: the setting does not survive a fork, and this may be a child of torchrun.
    die_with_parent()
    logs, rank = Path(sys.argv[1]), int(os.environ.get("RANK", "0"))
    console.quiet = rank > 0
    never_fail_to_print()
    expect_one_command()
    before_exit.append(lambda stopped: write_failure(logs, rank, stopped))
    try:
        work = read_job(logs)
        job, path = work.job, work.checkpoint
        # The parent has chosen the folder; a name with a time would differ between processes.
        assert job.run_dir
        # Before the first import of torch and the others, which log while they are imported.
        quiet_libraries(job.quant.name)
        from cogvx_exp.training.run import train

        folder = RunFolder(job.run_dir)
        with configured_logging(), disk_trouble(folder):
            logger.info("worker %d, process %d, of %s", rank, os.getpid(), folder.path)
            # From the parent's index, so every process sees the same clips in the same order.
            dataset = load_dataset(job.data, job.cache_dir)
            train(job, folder, dataset, open_checkpoint(path) if path else None, work.opening)
    except Stopped as stopped:
        write_failure(logs, rank, stopped)
        # Not sys.exit: interpreter shutdown can wait for other processes (nccl) or threads that never finish.
        os._exit(EXIT_CODE)
    except UserError as error:
        write_failure(logs, rank, error)
        os._exit(2)
    except BaseException as error:
        write_failure(logs, rank, error, traceback.format_exc())
        os._exit(1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
