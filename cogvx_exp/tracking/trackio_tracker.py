"""Trackio: runs in a database on this machine, or in a Hugging Face Space."""

import os
from pathlib import Path
from secrets import token_hex
from typing import Any

from cogvx_exp.config.schema import TrainJob
from cogvx_exp.config.schema.trackers import Trackio
from cogvx_exp.runs.run_folder import RunFolder
from cogvx_exp.tracking.names import group_of, kept_name

LONGEST_NAME = 100
"""Characters of the run folder's name in the run's; Trackio makes a folder of it."""
ELSEWHERE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")
"""Variables with which Trackio itself logs to another machine."""


class TrackioTracker:
    """A resumed run continues the same Trackio run, found by its name, which is kept in the run folder."""

    def __init__(self, job: TrainJob, settings: Trackio, folder: RunFolder):
        import trackio

        _silence(trackio)
        if not settings.space and not any(os.environ.get(name) for name in ELSEWHERE):
            _stay_local(trackio)
        self._trackio, self._videos = trackio, settings.videos
        self._run = trackio.init(
            project=settings.project,
            # Resuming is by name, and several runs may have the same `job.name`.
            name=kept_name(folder.path / "trackio_name.txt", lambda: _new_name(folder)),
            group=group_of(folder, settings.group),
            space_id=settings.space,
            private=True,
            config=job.model_dump(mode="json"),
            resume="allow",
            embed=False,
        )
        # After a crash, steps behind the last checkpoint are repeated: Trackio would show both.
        self._first_new_step = self._run._next_step

    def metrics(self, step: int, values: dict[str, Any]) -> None:
        """Logs values of a step."""
        if step >= self._first_new_step:
            self._run.log(values, step=step)

    def video(self, step: int, path: Path, prompt: str) -> None:
        """Logs a validation video."""
        if self._videos and step >= self._first_new_step:
            self._run.log({f"videos/{path.stem}": self._trackio.Video(path, caption=prompt)}, step=step)

    def finish(self) -> None:
        """Writes or sends pending data."""
        self._run.finish()


def _new_name(folder: RunFolder) -> str:
    return f"{folder.path.name[:LONGEST_NAME]}-{token_hex(3)}"


def _silence(trackio: Any) -> None:
    """Hides what Trackio prints, only in its modules: stdout belongs to the whole process."""
    for module in (trackio, trackio.run, trackio.utils):
        module.print = lambda *texts, **options: None


def _stay_local(trackio: Any) -> None:
    """Trackio asks the Hub for the user's name if there is a token, even for a run that stays on this machine."""
    trackio.run._get_default_namespace = lambda: None
