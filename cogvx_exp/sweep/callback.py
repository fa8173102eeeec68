"""Hydra's callbacks around a sweep."""

import sys
from pathlib import Path
from typing import Any, ClassVar

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, read_write

from cogvx_exp.config.issues import ConfigError
from cogvx_exp.console.progress import console
from cogvx_exp.console.terminal import visible
from cogvx_exp.core.errors import CrashError, UserError
from cogvx_exp.core.files import new_folder
from cogvx_exp.runs.run_folder import RunFolder, read_status, write_status
from cogvx_exp.runs.sweep_folder import SWEEPS, SweepJob, find_sweep, job_folders, note_sweep, unlink_what_is_gone
from cogvx_exp.sweep.table import SweepTable

TARGET = "cogvx_exp.sweep.callback.SweepCallback"


class SweepCallback(Callback):
    """Records the sweep's command in its folder and shows the job table."""

    ended: ClassVar[list[SweepJob]] = []
    """The jobs of the sweep that has just ended in this process."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Called before the first job."""
        overrides = list(config.hydra.overrides.task)
        # The default name has whole seconds, so two sweeps could share a folder.
        given = any(text.startswith("hydra.sweep.dir=") for text in config.hydra.overrides.hydra)
        folder = Path(config.hydra.sweep.dir)
        if not given and folder.parent == SWEEPS:
            folder = new_folder(folder)
            with read_write(config.hydra):
                config.hydra.sweep.dir = str(folder)
                config.hydra.overrides.hydra.append(f"hydra.sweep.dir={folder}")  # jobs are composed separately
        if config.sweep.resume and not job_folders(folder):
            console.warn("Note: sweep.resume=true: no sweep with this command exists; starting a new one")
        note_sweep(folder, overrides)
        unlink_what_is_gone(folder)
        planned = _planned(config, overrides)
        count = f"{len(planned)} jobs" if planned else "jobs"
        console.print(f"Sweep of {count} in {folder}", soft_wrap=True)
        self._table = SweepTable(folder, planned)
        self._table.start()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Called after the last job."""
        SweepCallback.ended = self._table.finish()

    def __getstate__(self) -> dict[str, Any]:
        """Launchers pickle the callback for their processes, which show no table."""
        return {}


def _planned(config: DictConfig, overrides: list[str]) -> list[list[str]]:
    """The overrides of each job, if the sweep uses Hydra's basic sweeper, so that all are known in advance."""
    if not config.hydra.sweeper._target_.endswith("BasicSweeper"):
        return []
    params = config.hydra.sweeper.params or {}
    texts = [text for text in overrides if not text.startswith("sweep.")]
    given = {text.partition("=")[0] for text in texts}
    texts += [f"{name}={value}" for name, value in params.items() if name not in given]
    # Hydra's own function, so that the table lists the jobs in the order and number that will run.
    batches = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(texts), max_batch_size=None)
    return [list(job) for batch in batches for job in batch]


def sweep_overrides(overrides: list[str]) -> list[str]:
    """Additional Hydra overrides: the callback, and the folder of a resumed sweep.

    Raises:
        UserError: the given folder already has a sweep.
    """
    added = [f"+hydra.callbacks.sweep._target_={TARGET}"]
    wants = any(text.replace(" ", "").lower() == "sweep.resume=true" for text in overrides)
    given = [text.partition("=")[2] for text in overrides if text.startswith("hydra.sweep.dir=")]
    if given and not wants and job_folders(Path(given[-1])):
        raise UserError(
            f"hydra.sweep.dir={given[-1]} already has a sweep; add sweep.resume=true to continue it, or choose another"
        )
    if wants and not given and (folder := find_sweep(overrides)):
        added.append(f"hydra.sweep.dir={folder}")
    return added


def note_failure(overrides: list[str], error: UserError | CrashError) -> None:
    """Records in a job's folder why it could not start or failed; prints internal errors as well."""
    folder = RunFolder(Path(HydraConfig.get().runtime.output_dir))
    crashed = isinstance(error, CrashError)
    if crashed:
        print(visible(str(error)), file=sys.stderr)
    if read_status(folder.path).get("status") == "finished":
        return  # it belongs to another sweep
    folder.path.mkdir(parents=True, exist_ok=True)
    issues = error.issues if isinstance(error, ConfigError) else []
    message = "; ".join(f"{issue.setting} {issue.problem}" for issue in issues) or str(error)
    shown = [text for text in overrides if not text.startswith("sweep.")]
    write_status(folder, "failed", message=message, overrides=shown, crashed=crashed)


def check_sweep(results: list[Any]) -> None:
    """Reports failed jobs at the end of a sweep.

    Raises:
        UserError: jobs have failed.
        CrashError: jobs have failed, at least one with an internal error.
    """
    # A class attribute, as Hydra creates the callback itself and does not hand it out.
    jobs, SweepCallback.ended = SweepCallback.ended, []
    failed = [job for job in jobs if job.status not in ("finished", "waiting")]
    if failed:
        numbers = ", ".join(str(job.number) for job in failed)
        kind = CrashError if any(job.crashed for job in failed) else UserError
        raise kind(
            f"{len(failed)} of {len(jobs)} jobs failed ({numbers}); "
            "the same command with sweep.resume=true repeats only these"
        )
