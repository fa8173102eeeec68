"""Changes to the folder of an earlier run, made only once it actually resumes. Does not need torch."""

import os
import platform
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from cogvx_exp.config.schema import TrainJob
from cogvx_exp.console.progress import console
from cogvx_exp.runs.best import best_by
from cogvx_exp.runs.branches import set_aside
from cogvx_exp.runs.checkpoint_folder import prune_checkpoints
from cogvx_exp.runs.metrics import Metrics
from cogvx_exp.runs.run_folder import RunFolder, write_status


@dataclass(frozen=True)
class Opening:
    """An attempt to continue in a folder that has a run. If it fails before training, the folder is unchanged."""

    arguments: list[str]
    """The command line."""
    changed: bool
    """Whether settings have changed."""
    pid: int = field(default_factory=os.getpid)
    """The process whose end is the end of the run."""

    def issues(self, folder: RunFolder, job: TrainJob) -> Path:
        """Where issues of the dataset are written until then."""
        return job.cache_dir / f"issues-{folder.path.name}.csv"

    def write(self, folder: RunFolder, job: TrainJob, step: int) -> None:
        """Sets aside results of the old branch, and writes the new settings.

        Args:
            folder: the run.
            job: its new settings.
            step: the last step to keep.

        Raises:
            OSError: the folder cannot be written; nothing is lost.
        """
        # First: from here on, results of old and new settings must not mix, even if this process is killed next.
        branch = set_aside(folder, step, changed=self.changed)
        if branch:
            text = f"Moved the results after step {step} to {branch} (resume={branch} continues from them)"
            console.warn(text)
        folder.start(job, self.arguments)
        folder.issues.unlink(missing_ok=True)
        issues = self.issues(folder, job)
        if issues.exists():
            shutil.move(issues, folder.issues)
        for file in (folder.held_out, folder.scores):
            if file.exists():
                with Metrics(file, step):
                    pass  # drops the lines after `step`
        prune_checkpoints(folder.checkpoints, None, best_by(job))  # the best one may have moved away
        write_started(folder, job, self.pid)


def write_started(folder: RunFolder, job: TrainJob, pid: int) -> None:
    """Records that a run is running, and the process whose end is its end."""
    steps = None if job.epochs else job.steps
    write_status(folder, "running", pid=pid, host=platform.node(), steps=steps)
