"""Names under which trackers know a run."""

from collections.abc import Callable
from pathlib import Path

from cogvx_exp.core.files import write_text
from cogvx_exp.runs.run_folder import RunFolder
from cogvx_exp.runs.sweep_folder import ABOUT


def kept_name(path: Path, new: Callable[[], str]) -> str:
    """The name in a file of the run folder, generated at the run's first start.

    It is written before the tracker starts, so a run that is killed during the start continues the same one.
    """
    if not path.exists():
        write_text(path, new())
    return path.read_text(encoding="utf-8").strip()


def group_of(folder: RunFolder, given: str | None) -> str | None:
    """The group that is set, or the sweep's folder, if the run is part of one."""
    in_sweep = (folder.path.parent / ABOUT).exists()
    return given or (folder.path.parent.name if in_sweep else None)
