"""Finds the checkpoint for `resume`."""

import logging
from pathlib import Path
from typing import Any

from yaml import YAMLError

from cogvx_exp.config.schema import TrainJob
from cogvx_exp.console.progress import console
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.files import read_json
from cogvx_exp.runs.best import without_link
from cogvx_exp.runs.checkpoint_folder import CheckpointFolder, newest_checkpoint, open_checkpoint, runs_newest_first
from cogvx_exp.runs.run_folder import IGNORED_KEYS, read_job, read_status, settings_by_name
from cogvx_exp.training.checkpoint.resuming import refuse_fewer_steps

logger = logging.getLogger(__name__)

MUST_AGREE = ("model.name", "model.path", "model.weights", "model.transformer", "task", "method", "optim.target")
"""Settings that determine a checkpoint's tensors and their meaning."""

ADDED = (
    "task.target",
    "task.condition",
    "task.prefix_frames",
    "task.masks",
    "objective",
    "profile",
    "validation.scores",
)
"""Settings missing in checkpoints of earlier versions, which behaved like the defaults."""

PREDICTION = ("optim.state_values", "optim.state_bytes", "quant.bytes_per_weight")
"""Settings that are only used by the memory prediction."""


def find_checkpoint(job: TrainJob, outputs: Path) -> CheckpointFolder | None:
    """The verified checkpoint to resume from. None with resume=auto if there is none yet.

    Raises:
        UserError: there is none, it has more steps than the job, or its settings differ (they are named).
    """
    checkpoint = _find(job, outputs)
    if checkpoint and job.epochs is None:
        refuse_fewer_steps(job.steps, checkpoint, f"steps={job.steps}")
    return checkpoint


def _find(job: TrainJob, outputs: Path) -> CheckpointFolder | None:
    assert job.resume
    if job.resume == "auto":
        return _newest_if_any(job)
    if job.resume == "latest":
        return _latest(job, outputs)
    path = without_link(Path(job.resume))
    if (path / "checkpoints").is_dir():
        return _agreeing(job, _newest_of(path))
    if path.is_dir():
        return _agreeing(job, open_checkpoint(path))
    raise UserError(f"resume={job.resume}: no such folder; give a run folder, one of its checkpoints, or latest")


def resume_job(job: TrainJob, folder: Path) -> tuple[TrainJob, dict[str, Any] | None]:
    """Resumes a job of a sweep: returns the job to run, and its summary if it had already finished.

    Raises:
        UserError: the folder's run has other settings.
    """
    job = job.model_copy(update={"run_dir": folder, "resume": "auto"})
    if read_status(folder).get("status") != "finished":
        return job, None
    changed = _changed(job, read_job(folder).model_dump(mode="json"))
    if changed:
        different = "; ".join(f"{key} was {old}, now {new}" for key, old, new in changed)
        raise UserError(f"{folder} belongs to another sweep ({different}); start this one without sweep.resume")
    return job, read_json(folder / "summary.json")


def _newest_if_any(job: TrainJob) -> CheckpointFolder | None:
    assert job.run_dir  # a rule
    checkpoint = _verified(job.run_dir)
    if checkpoint is None:
        logger.info("resume=auto: %s has no checkpoint yet", job.run_dir)
        return None
    return _agreeing(job, checkpoint)


def _latest(job: TrainJob, outputs: Path) -> CheckpointFolder:
    if job.run_dir and (job.run_dir / "checkpoints").is_dir():
        return _agreeing(job, _newest_of(job.run_dir))
    for run in runs_newest_first(outputs):
        # Hashing only as far as needed: newest run first, and its newest valid checkpoint.
        checkpoint, _ = newest_checkpoint(run)
        differences = _differences(job, checkpoint) if checkpoint else ["no usable checkpoint"]
        logger.info("resume=latest: %s: %s", run, "; ".join(differences) or "taken")
        if checkpoint and not differences:
            return checkpoint
    where = job.run_dir or outputs
    raise UserError(f"resume=latest: no checkpoint of a run like this one in {where}; omit resume to start a new run")


def _newest_of(run: Path) -> CheckpointFolder:
    checkpoint = _verified(run)
    if checkpoint is None:
        raise UserError(f"resume: {run} has no usable checkpoint")
    return checkpoint


def _verified(run: Path) -> CheckpointFolder | None:
    """The newest valid checkpoint; prints which ones are skipped."""
    checkpoint, skipped = newest_checkpoint(run)
    for reason in skipped:
        console.warn(f"Skipped: {reason}")
    return checkpoint


def _agreeing(job: TrainJob, checkpoint: CheckpointFolder) -> CheckpointFolder:
    differences = _differences(job, checkpoint)
    logger.info("resume: %s, which differs in: %s", checkpoint.path, "; ".join(differences) or "nothing that matters")
    if differences and not job.resume_changed:
        raise UserError(
            f"resume: {checkpoint.path} was made with other settings: {'; '.join(differences)}; set them back, or add "
            "resume_changed=true"
        )
    return checkpoint


def _differences(job: TrainJob, checkpoint: CheckpointFolder) -> list[str]:
    """Changed settings that must not change."""
    # Compared as JSON: the checkpoint has been through it, which turns tuples into lists and paths into texts.
    now, then = job.model_dump(mode="json"), checkpoint.manifest["config"]
    compared = [_added(setting, _get(then, setting), _get(now, setting)) for setting in MUST_AGREE]
    return [f"{setting} was {old}, now {new}" for setting, old, new in compared if old != new]


def _added(setting: str, old: Any, new: Any) -> tuple[str, Any, Any]:
    """A setting with its old and new value, ignoring parts that earlier versions did not have."""
    if isinstance(old, dict) and isinstance(new, dict):
        new = {key: value for key, value in new.items() if key in old or f"{setting}.{key}" not in ADDED}
    return setting, old, new


def changes(job: TrainJob, checkpoint: CheckpointFolder) -> list[str]:
    """Settings changed since the checkpoint, and the step from which they apply."""
    first = checkpoint.step + 1
    changed = _changed(job, checkpoint.manifest["config"])
    return [f"{key}: {old} -> {new}, from step {first}" for key, old, new in changed]


def has_changed(job: TrainJob, run_dir: Path) -> bool:
    """Whether settings have changed since the run was last started; True if that is unknown."""
    try:
        return bool(_changed(job, read_job(run_dir).model_dump(mode="json")))
    except (OSError, ValueError, YAMLError):
        return True


def _changed(job: TrainJob, before: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Name, old and new value of each setting that differs and affects a run."""
    now, then = settings_by_name(job.model_dump(mode="json")), settings_by_name(before)
    changed = [
        key for key in now | then if now.get(key) != then.get(key) and not key.startswith((*IGNORED_KEYS, *PREDICTION))
    ]
    return [(key, then.get(key), now.get(key)) for key in changed if key in then or not key.startswith(ADDED)]


def _get(config: Any, setting: str) -> Any:
    for part in setting.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config
