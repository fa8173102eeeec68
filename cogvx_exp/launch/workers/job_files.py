"""Files in the run folder through which a run and its worker processes communicate."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cogvx_exp.config.schema import TrainJob
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.files import read_json, write_json
from cogvx_exp.runs.opening import Opening
from cogvx_exp.training.stopping import Stopped


@dataclass(frozen=True)
class Work:
    """The work of a run's processes."""

    job: TrainJob
    checkpoint: Path | None
    """Checkpoint to resume from."""
    opening: Opening | None
    """The changes to make when the run resumes in an existing run folder."""


def write_job(logs: Path, work: Work) -> None:
    """Writes the job; removes failure files of earlier attempts."""
    logs.mkdir(parents=True, exist_ok=True)
    # A failure of an earlier attempt would be taken for one of this.
    for stale in logs.glob("failure-*.json"):
        stale.unlink()
    values = {
        "job": work.job.model_dump(mode="json"),
        "checkpoint": work.checkpoint and str(work.checkpoint),
        "opening": work.opening and asdict(work.opening),
    }
    write_json(logs / "job.json", values)


def read_job(logs: Path) -> Work:
    """Reads the job written by `write_job`."""
    work = read_json(logs / "job.json")
    checkpoint, opening = work["checkpoint"], work["opening"]
    return Work(
        TrainJob.model_validate(work["job"]),
        Path(checkpoint) if checkpoint else None,
        Opening(**opening) if opening else None,
    )


def write_failure(logs: Path, rank: int, error: BaseException, traceback: str = "") -> None:
    """Records the error that ended a worker. Called in the worker."""
    about = {
        "rank": rank,
        "time": time.time(),
        "user": isinstance(error, UserError),
        "stopped": isinstance(error, Stopped),
        "message": str(error),
        "traceback": traceback,
    }
    write_json(logs / f"failure-{rank}.json", about)


def first_failure(logs: Path) -> dict[str, Any] | None:
    """The error of the process that failed first, if any."""
    failures = [read_json(path) for path in logs.glob("failure-*.json")]
    # The first one is the cause; processes that lose their partner fail seconds later with errors of the network.
    return min(failures, key=lambda failure: failure["time"], default=None)
