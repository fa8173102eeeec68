"""What a run and the processes that it starts tell each other, as files in the run's folder."""

import time
from pathlib import Path
from typing import Any

from cogvx_exp.config.schema import TrainJob
from cogvx_exp.errors import UserError
from cogvx_exp.files import read_json, write_json
from cogvx_exp.training.stopping import Stopped


def leave_work(logs: Path, job: TrainJob, checkpoint: Path | None) -> None:
    """Writes the job, and the checkpoint to go on from; removes what failures of before have left."""
    logs.mkdir(parents=True, exist_ok=True)
    for left in logs.glob("failure-*.json"):
        left.unlink()
    write_json(logs / "job.json", {"job": job.model_dump(mode="json"), "checkpoint": checkpoint and str(checkpoint)})


def read_work(logs: Path) -> tuple[TrainJob, Path | None]:
    """What `leave_work` has left."""
    work = read_json(logs / "job.json")
    checkpoint = work["checkpoint"]
    return TrainJob.model_validate(work["job"]), Path(checkpoint) if checkpoint else None


def leave_failure(logs: Path, rank: int, error: BaseException, traceback: str = "") -> None:
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
