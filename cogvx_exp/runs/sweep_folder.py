"""The folder of a sweep: its command and the state of its jobs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogvx_exp.config.renames import renamed_override
from cogvx_exp.config.schema.section import SCORE
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.files import read_json, write_json
from cogvx_exp.runs.metrics import last_metrics
from cogvx_exp.runs.run_folder import RunFolder, read_status, seconds_of

SWEEPS = Path("outputs/multirun")
ABOUT = "sweep.json"
NOT_PART = ("sweep.resume=", "hydra.", "hydra/")
"""Prefixes of overrides that do not change a sweep's identity."""


@dataclass(frozen=True)
class SweepJob:
    """State of one job of a sweep."""

    number: int
    overrides: list[str]
    status: str
    """waiting, running, finished, stopped, failed or lost."""
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    """The held-out loss, or mean training loss, of a finished job; otherwise the loss of its last step."""
    goal: str = "loss"
    """What jobs are compared by."""
    score: float | None = None
    """The objective of a finished job, if it is not the loss."""
    seconds: float | None = None
    message: str = ""
    crashed: bool = False
    """Whether it failed with an internal error."""


def note_sweep(folder: Path, overrides: Sequence[str]) -> None:
    """Records the command of a sweep."""
    write_json(folder / ABOUT, {"overrides": _identity(overrides)})


def find_sweep(overrides: Sequence[str], sweeps: Path = SWEEPS) -> Path | None:
    """The newest sweep started with the same overrides, in any order."""
    abouts = sorted(sweeps.glob(f"*/{ABOUT}"), key=lambda path: path.stat().st_mtime, reverse=True)
    wanted = _identity(overrides)
    return next((path.parent for path in abouts if _identity(read_json(path)["overrides"]) == wanted), None)


def _identity(overrides: Sequence[str]) -> list[str]:
    # Sorted: their order on the command line only matters for a key that is given twice.
    return sorted(renamed_override(text) for text in overrides if not text.lstrip("+~").startswith(NOT_PART))


def link_job(place: Path, run_dir: Path) -> None:
    """Turns a job's folder in the sweep into a link to the job's own `run_dir`.

    Raises:
        OSError: the folder is not empty.
    """
    if place.resolve() == run_dir.resolve():
        return
    if place.is_symlink():
        place.unlink()
    else:
        RunFolder(place).status.unlink(missing_ok=True)  # from an earlier attempt
        place.rmdir()
    place.symlink_to(run_dir.resolve(), target_is_directory=True)


def unlink_what_is_gone(folder: Path) -> None:
    """Removes links to deleted job folders."""
    for path in folder.iterdir():
        if path.is_symlink() and not path.exists():
            path.unlink()


def job_folders(folder: Path) -> list[Path]:
    """Folders of the started jobs, in order."""
    started = [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    return sorted(started, key=lambda path: int(path.name))


def read_sweep_job(folder: Path) -> SweepJob:
    """State of the job in a folder; `lost` if its process exited without writing a status."""
    status, run = read_status(folder), RunFolder(folder)
    overrides = status.get("overrides") or run.overrides()
    state, last = status.get("status", "waiting"), last_metrics(run.metrics)
    loss, seconds, goal, score = last.get("loss"), seconds_of(status), "loss", None
    if state == "finished":
        summary = read_json(folder / "summary.json")
        loss, seconds = objective(summary), summary["seconds"] if seconds is None else seconds
        goal = summary.get("objective", "loss")
        score = summary.get("scores", {}).get(goal.removeprefix(SCORE)) if goal != "loss" else None
    return SweepJob(
        int(folder.name),
        overrides,
        state,
        step=last.get("step"),
        steps=status.get("steps"),
        loss=loss,
        goal=goal,
        score=score,
        seconds=seconds,
        message=str(status.get("message", "")),
        crashed=bool(status.get("crashed")),
    )


def objective(summary: dict[str, Any], goal: str = "loss") -> float | None:
    """The objective of a sweep.

    Args:
        summary: of a finished run.
        goal: loss: the held-out loss if there is one, otherwise the training loss of the last tenth. score.NAME: that
            score of the last validation.

    Raises:
        UserError: the run has no such score.
    """
    if goal == "loss":
        loss = summary["held_out"]["loss"] if "held_out" in summary else summary["loss_last_tenth"]
        return None if loss is None else float(loss)
    try:
        return float(summary["scores"][goal.removeprefix(SCORE)])
    except KeyError:
        raise UserError(f"sweep.objective={goal}: the run has no such score; its notes say why it failed") from None
