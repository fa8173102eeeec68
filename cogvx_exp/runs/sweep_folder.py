"""The folder of a sweep: which command made it, and how its jobs stand."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cogvx_exp.config.renames import renamed_override
from cogvx_exp.core.files import read_json, write_json
from cogvx_exp.runs.run_folder import RunFolder, last_metrics, read_status, seconds_of

SWEEPS = Path("outputs/multirun")
ABOUT = "sweep.json"
NOT_PART = ("sweep.resume=", "hydra.", "hydra/")
"""How overrides begin that do not make a sweep another one."""


@dataclass(frozen=True)
class SweepJob:
    """How one job of a sweep stands."""

    number: int
    overrides: list[str]
    status: str
    """waiting, running, finished, stopped, failed or lost."""
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    """The objective of a finished job; else the loss of its last step."""
    seconds: float | None = None
    message: str = ""
    crashed: bool = False
    """Whether it failed by an internal error."""


def note_sweep(folder: Path, overrides: Sequence[str]) -> None:
    """Writes which command a sweep was started with."""
    write_json(folder / ABOUT, {"overrides": _identity(overrides)})


def find_sweep(overrides: Sequence[str], sweeps: Path = SWEEPS) -> Path | None:
    """The newest sweep that was started with the same overrides, in whatever order."""
    abouts = sorted(sweeps.glob(f"*/{ABOUT}"), key=lambda path: path.stat().st_mtime, reverse=True)
    wanted = _identity(overrides)
    return next((path.parent for path in abouts if _identity(read_json(path)["overrides"]) == wanted), None)


def _identity(overrides: Sequence[str]) -> list[str]:
    return sorted(renamed_override(text) for text in overrides if not text.lstrip("+~").startswith(NOT_PART))


def link_job(place: Path, run_dir: Path) -> None:
    """Makes the folder of a job in its sweep a link to the `run_dir` that the job was given.

    Raises:
        OSError: the folder has something in it.
    """
    if place.resolve() == run_dir.resolve():
        return
    if place.is_symlink():
        place.unlink()
    else:
        RunFolder(place).status.unlink(missing_ok=True)  # of an earlier try
        place.rmdir()
    place.symlink_to(run_dir.resolve(), target_is_directory=True)


def unlink_what_is_gone(folder: Path) -> None:
    """Removes the links to folders of jobs that were removed."""
    for path in folder.iterdir():
        if path.is_symlink() and not path.exists():
            path.unlink()


def job_folders(folder: Path) -> list[Path]:
    """Folders of the jobs that were started, in their order."""
    started = [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    return sorted(started, key=lambda path: int(path.name))


def read_sweep_job(folder: Path) -> SweepJob:
    """How the job of a folder stands; `lost` if its process is gone without a word."""
    status, run = read_status(folder), RunFolder(folder)
    overrides = status.get("overrides") or run.overrides()
    state, last = status.get("status", "waiting"), last_metrics(run.metrics)
    loss, seconds = last.get("loss"), seconds_of(status)
    if state == "finished":
        summary = read_json(folder / "summary.json")
        loss, seconds = objective(summary), summary["seconds"] if seconds is None else seconds
    step = last.get("step")
    message, crashed = str(status.get("message", "")), bool(status.get("crashed"))
    return SweepJob(int(folder.name), overrides, state, step, status.get("steps"), loss, seconds, message, crashed)


def objective(summary: dict) -> float | None:
    """What a sweep searches for: the held-out loss if there is one, else the training loss of the last tenth."""
    loss = summary["held_out"]["loss"] if "held_out" in summary else summary["loss_last_tenth"]
    return None if loss is None else float(loss)
