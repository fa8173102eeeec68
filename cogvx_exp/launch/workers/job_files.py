"""What a run and the processes that it starts tell each other, as files in the run's folder."""

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
    """What the processes of a run are to do."""

    job: TrainJob
    checkpoint: Path | None
    """What to go on from."""
    opening: Opening | None
    """What is written when the run goes on in a folder that has one."""


def write_job(logs: Path, work: Work) -> None:
    """Writes what is to be done; removes what failures of before have left."""
    logs.mkdir(parents=True, exist_ok=True)
    for left in logs.glob("failure-*.json"):
        left.unlink()
    values = {
        "job": work.job.model_dump(mode="json"),
        "checkpoint": work.checkpoint and str(work.checkpoint),
        "opening": work.opening and asdict(work.opening),
    }
    write_json(logs / "job.json", values)


def read_job(logs: Path) -> Work:
    """What `write_job` has left."""
    work = read_json(logs / "job.json")
    checkpoint, opening = work["checkpoint"], work["opening"]
    return Work(
        TrainJob.model_validate(work["job"]),
        Path(checkpoint) if checkpoint else None,
        Opening(**opening) if opening else None,
    )


def write_failure(logs: Path, rank: int, error: BaseException, traceback: str = "") -> None:
    """Called in a worker: says what ended it."""
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
    """What the process that failed first has left."""
    failures = [read_json(path) for path in logs.glob("failure-*.json")]
    return min(failures, key=lambda failure: failure["time"], default=None)
