"""Sets aside a run's later results when it continues differently from an earlier step. Does not need torch.

RUN/branches/from-step-000006-TIME is a run folder with the results after step 6: it can be reported on and resumed. A
note is written first. From then on the run is on the new branch, even if it is killed: files still to be moved are
ignored when a checkpoint is looked up, and are moved when the run next resumes.
"""

import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

from cogvx_exp.core.files import atomic_write, read_json, write_json
from cogvx_exp.runs.metrics import read_metrics
from cogvx_exp.runs.run_folder import RunFolder, step_of

BRANCHES = "branches"

COPIED = ("config.yaml", "command.txt", "status.json", "environment.json", "faults.csv", "metrics.jsonl")
"""Files that both get; in the metrics, the run itself keeps only the lines of its own steps."""
ALSO_COPIED = ("held_out.jsonl", "scores.jsonl")
MOVED = ("export", "summary.json", "loss.png", "videos.png", "videos.webp", "hub", "wandb_id.txt", "trackio_name.txt")
"""Files about the end of a run or its tracker run: trackers do not accept a step twice, so a branch is a new one."""
BY_STEP = ("checkpoints", "validation")


def set_aside(folder: RunFolder, step: int, *, changed: bool) -> Path | None:
    """Moves a run's results after a step into a separate folder, if they would get mixed with the new ones.

    After a crash, a run with the same settings repeats the steps after its last checkpoint, so nothing is set aside.

    Args:
        folder: the run.
        step: the last step to keep.
        changed: whether settings have changed.

    Returns:
        The new folder; None if there was nothing to move.

    Raises:
        OSError: files cannot be moved; nothing is lost.
    """
    note = _note(folder.path)
    if note.exists():  # an earlier process was killed while moving
        _move(folder, read_json(note))
        note.unlink()
    if not (_has_results(folder, step) or (changed and _has_lines(folder, step))):
        return None
    name = f"from-step-{step:06d}-{datetime.now().strftime('%Y-%m-%d_%H-%M-%S_%f')}"
    about = {"after": step, "name": name}
    # Before anything moves, so that the next process can finish what this one began.
    write_json(note, about)
    there = _move(folder, about)
    note.unlink()
    return there


def left_branch(run_dir: Path) -> int | None:
    """The step after which a run's contents belong to a branch that is still being moved."""
    try:
        return int(read_json(_note(run_dir))["after"])
    except (OSError, ValueError, KeyError):
        return None


def _note(run_dir: Path) -> Path:
    return run_dir / BRANCHES / "moving.json"


def _has_results(folder: RunFolder, step: int) -> bool:
    """Whether there are checkpoints or results of later steps."""
    try:
        ended = int(read_json(folder.path / "summary.json")["steps"])
    except (OSError, ValueError, KeyError):
        ended = 0
    return ended > step or bool(_later(folder.checkpoints, step))


def _has_lines(folder: RunFolder, step: int) -> bool:
    lines = [*read_metrics(folder.metrics), *read_metrics(folder.held_out)]
    return any(line["step"] > step for line in lines)


def _later(folder: Path, step: int) -> list[Path]:
    return [path for path in sorted(folder.glob("step-*")) if (step_of(path) or 0) > step]


def _move(folder: RunFolder, about: dict[str, Any]) -> Path:
    """Moves what a note describes, or the rest of it."""
    there = folder.path / BRANCHES / about["name"]
    there.mkdir(parents=True, exist_ok=True)
    for name in (*COPIED, *ALSO_COPIED):
        source, target = folder.path / name, there / name
        # Copies first, moves after: a kill in between leaves everything in at least one place.
        if source.exists() and not target.exists():
            with atomic_write(target) as tmp:
                shutil.copyfile(source, tmp)
    for part in BY_STEP:
        for source in _later(folder.path / part, about["after"]):
            (there / part).mkdir(exist_ok=True)
            # A rename within one file system, so each checkpoint is in exactly one of both places.
            source.replace(there / part / source.name)
    for name in MOVED:
        if (folder.path / name).exists():
            (folder.path / name).replace(there / name)
    return there
