"""Checkpoint folders: atomic, and verified before use. Does not need torch.

checkpoints/step-000100/
    trainable.safetensors   the trained weights
    optimizer.safetensors   the optimizer's tensors
    state.json              the optimizer's other values, the learning-rate schedule, the position in the data
    manifest.json           size and hash of each file, step, configuration, versions
"""

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogvx_exp.core.errors import UserError
from cogvx_exp.core.files import file_hash, fingerprint, read_json, sync_folder, write_json
from cogvx_exp.runs.best import Best, link_best
from cogvx_exp.runs.branches import BRANCHES, left_branch
from cogvx_exp.runs.run_folder import MANIFEST, step_of, with_new_names

logger = logging.getLogger(__name__)

MANIFEST_HASH = "blake2_of_the_rest"
"""Key of the manifest's own hash."""


@dataclass(frozen=True)
class CheckpointFolder:
    """A verified checkpoint."""

    path: Path
    manifest: dict[str, Any]

    @property
    def step(self) -> int:
        """Completed optimizer steps."""
        return int(self.manifest["step"])

    @property
    def run_dir(self) -> Path:
        """The run folder that contains it."""
        return self.path.parent.parent


def write_checkpoint(folder: Path, write: Callable[[Path], None], about: dict[str, Any]) -> None:
    """Calls `write` to fill a folder, adds the manifest and moves it into place.

    Args:
        folder: path of the checkpoint.
        write: writes the files into the folder it is given.
        about: further contents of the manifest; must include `step`.
    """
    tmp, before = (folder.with_name(f".{folder.name}.{what}") for what in ("tmp", "before"))
    # Of a process that was killed while writing; the saver writes one checkpoint at a time.
    for stale in (tmp, before):
        shutil.rmtree(stale, ignore_errors=True)
    try:
        tmp.mkdir(parents=True)
        write(tmp)
        files = sorted(path for path in tmp.iterdir())
        hashes = {path.name: {"bytes": path.stat().st_size, "blake2": file_hash(path)} for path in files}
        manifest = {**about, "files": hashes}
        write_json(tmp / MANIFEST, {**manifest, MANIFEST_HASH: _manifest_hash(manifest)})
        sync_folder(tmp)
    # Also KeyboardInterrupt: a partial folder would take space until the next run.
    except BaseException:
        shutil.rmtree(tmp, ignore_errors=True)  # frees the space if the disk is full
        raise
    # A rename cannot replace a folder with files in it, so the old one is moved away first.
    if folder.exists():
        folder.replace(before)
    tmp.replace(folder)
    sync_folder(folder.parent)  # without it, a power cut can undo the rename
    shutil.rmtree(before, ignore_errors=True)


def prune_checkpoints(folder: Path, keep: int | None, best: Best | None) -> Path | None:
    """Removes all but the newest `keep` checkpoints and the best one, which is returned and linked as `best`.

    Args:
        folder: the run's checkpoint folder.
        keep: how many of the newest are kept; None keeps all.
        best: what they are compared by; None: the best is not kept.
    """
    paths = _newest_first(folder)
    best_path = best.of(paths) if best else None
    for path in paths[keep:] if keep else ():
        if path != best_path:
            shutil.rmtree(path)
            logger.info("removed %s (checkpoint.keep=%d, best: %s)", path, keep, best_path and best_path.name)
    link_best(folder, best_path)
    return best_path


def open_checkpoint(path: Path) -> CheckpointFolder:
    """Verifies the sizes and hashes of a checkpoint.

    Raises:
        UserError: a file is missing or damaged.
    """
    try:
        manifest = read_json(path / MANIFEST)
        if manifest.pop(MANIFEST_HASH) != _manifest_hash(manifest):
            raise UserError(f"checkpoint {path}: {MANIFEST} is damaged")
        for name, expected in manifest["files"].items():
            file = path / name
            # The size first: a truncated file is found without reading it.
            if file.stat().st_size != expected["bytes"] or file_hash(file) != expected["blake2"]:
                raise UserError(f"checkpoint {path}: {name} is damaged")
    except FileNotFoundError as error:
        raise UserError(f"checkpoint {path}: {Path(error.filename).name} is missing") from None
    # UserError is a ValueError, too.
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"checkpoint {path}: {MANIFEST} is damaged") from None
    return CheckpointFolder(path, with_new_names(manifest))


def _manifest_hash(manifest: dict[str, Any]) -> str:
    """Hash of a manifest as read back from JSON, which turns tuples into lists and keys into strings."""
    return fingerprint(json.loads(json.dumps(manifest, default=str)))


def newest_checkpoint(run_dir: Path) -> tuple[CheckpointFolder | None, list[str]]:
    """The newest valid checkpoint of a run, and why newer ones were skipped."""
    skipped: list[str] = []
    for path in _newest_first(run_dir / "checkpoints"):
        try:
            return open_checkpoint(path), skipped
        except UserError as error:
            skipped.append(str(error))
    return None, skipped


def runs_newest_first(outputs: Path) -> Iterator[Path]:
    """Run folders below `outputs` that have checkpoints, most recently written first."""
    runs = {path.parent.parent for path in outputs.glob("**/checkpoints/step-*") if path.is_dir()}
    runs = {run for run in runs if run.parent.name != BRANCHES}  # abandoned parts of other runs
    # The folder's time changes with each rename into it; times of files inside may have been copied along.
    yield from sorted(runs, key=lambda run: (run / "checkpoints").stat().st_mtime_ns, reverse=True)


def _newest_first(folder: Path) -> list[Path]:
    steps = [(step, path) for path in folder.glob("step-*") if (step := step_of(path)) is not None]
    last_kept = left_branch(folder.parent)
    # A branch may still be in the middle of moving away: its checkpoints no longer count here.
    return [path for step, path in sorted(steps, reverse=True) if last_kept is None or step <= last_kept]
