"""What is written into the folder of an earlier run when it really goes on. Does not need torch."""

import os
import platform
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from cogvx_exp.config.schema import TrainJob
from cogvx_exp.console.progress import console
from cogvx_exp.runs.branches import set_aside
from cogvx_exp.runs.run_folder import Metrics, RunFolder, write_status


@dataclass(frozen=True)
class Opening:
    """An attempt to go on in a folder that has a run. If it fails before training, the folder is as it was."""

    arguments: list[str]
    """The command line."""
    changed: bool
    """Whether settings have changed."""
    pid: int = field(default_factory=os.getpid)
    """The process whose end is the run's end."""

    def faults(self, folder: RunFolder, job: TrainJob) -> Path:
        """Where the clips that cannot be used are listed until then."""
        return job.cache_dir / f"faults-{folder.path.name}.csv"

    def write(self, folder: RunFolder, job: TrainJob, step: int) -> None:
        """Sets aside what belongs to another branch, and writes what the run goes on with.

        Args:
            folder: the run.
            job: its settings now.
            step: the last step that stays.

        Raises:
            OSError: the folder cannot be written; nothing is lost.
        """
        branch = set_aside(folder, step, changed=self.changed)
        if branch:
            text = f"Set aside what this run had after step {step}: {branch} (resume={branch} goes on with it)"
            console.warn(text)
        folder.start(job, self.arguments)
        folder.faults.unlink(missing_ok=True)
        faults = self.faults(folder, job)
        if faults.exists():
            shutil.move(faults, folder.faults)
        if folder.held_out.exists():
            with Metrics(folder.held_out, step):
                pass  # drops the lines after it
        write_started(folder, job, self.pid)


def write_started(folder: RunFolder, job: TrainJob, pid: int) -> None:
    """Notes that a run goes on, and which process's end is its end."""
    steps = None if job.epochs else job.steps
    write_status(folder, "running", pid=pid, host=platform.node(), steps=steps)
