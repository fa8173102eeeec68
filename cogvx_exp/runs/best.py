"""Which checkpoint is the best one. Does not need torch."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cogvx_exp.config.schema import TrainJob, Validation
from cogvx_exp.config.schema.section import SCORE
from cogvx_exp.core.files import read_json
from cogvx_exp.runs.metrics import read_metrics
from cogvx_exp.runs.run_folder import MANIFEST, RunFolder, step_of

BEST = "best"
"""Name of the link to the best checkpoint, next to it."""


@dataclass(frozen=True)
class Best:
    """What checkpoints are compared by."""

    by: str
    """loss: the held-out loss. score.NAME: a score of the validation after the same step."""
    higher: bool = False
    """Whether higher values are better."""

    def values(self, checkpoints: Sequence[Path]) -> dict[Path, float]:
        """The value of each checkpoint that has one."""
        if self.by == "loss":
            # Unverified: reading the loss must not mean hashing gigabytes after every checkpoint.
            return {path: loss for path in checkpoints if (loss := _held_out_loss(path)) is not None}
        # From the run's file and not from manifests: videos are sampled after the checkpoint is saved.
        name, run = self.by.removeprefix(SCORE), checkpoints[0].parent.parent if checkpoints else Path()
        scores = {line["step"]: line[name] for line in read_metrics(RunFolder(run).scores) if name in line}
        return {path: scores[step] for path in checkpoints if (step := step_of(path)) in scores}

    def of(self, checkpoints: Sequence[Path]) -> Path | None:
        """The best of these checkpoints, the newest of equal ones; None if none has a value."""
        values = self.values(sorted(checkpoints, reverse=True))
        return (max if self.higher else min)(values, key=lambda path: values[path]) if values else None


def best_by(job: TrainJob) -> Best | None:
    """What the checkpoints of a run are compared by; None with checkpoint.keep_best=false."""
    by = job.checkpoint.keep_best
    if isinstance(by, bool):
        return Best("loss") if by else None
    assert isinstance(job.validation, Validation) or by == "loss", "a rule"
    better = job.validation.scores[by.removeprefix(SCORE)].better if by != "loss" else "lower"  # type: ignore[union-attr]
    return Best(by, better == "higher")


def link_best(checkpoints: Path, best: Path | None) -> None:
    """Points the link `best` at a checkpoint; removes it if there is none."""
    link, tmp = checkpoints / BEST, checkpoints / f".{BEST}.tmp"
    # Only a help for people: some file systems have no links, and a run must not fail for that.
    with suppress(OSError):
        if best is None:
            link.unlink(missing_ok=True)
        else:
            tmp.unlink(missing_ok=True)
            tmp.symlink_to(best.name, target_is_directory=True)
            tmp.replace(link)


def without_link(path: Path) -> Path:
    """The checkpoint itself for `checkpoints/best`, which may be another one tomorrow; other paths as they are."""
    return path.parent / os.readlink(path) if path.name == BEST and path.is_symlink() else path


def _held_out_loss(path: Path) -> float | None:
    try:
        loss = read_json(path / MANIFEST).get("held_out_loss")
    except (OSError, ValueError):
        return None
    return None if loss is None else float(loss)
