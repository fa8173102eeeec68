"""Trackers in addition to the run's own files. They cannot fail a run or make it wait.

Values go into a queue that a thread processes. If a tracker fails or hangs, the run continues without it.
"""

import json
import logging
import queue
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any, Protocol

from cogvx_exp.config.imported import imported
from cogvx_exp.config.schema import TrainJob
from cogvx_exp.config.schema.trackers import TensorBoard, Wandb
from cogvx_exp.config.schema.trackers import Tracker as Settings
from cogvx_exp.console.progress import console
from cogvx_exp.media.video import spread_frames
from cogvx_exp.runs.run_folder import RunFolder
from cogvx_exp.tracking.names import group_of, kept_name
from cogvx_exp.tracking.trackio_tracker import TrackioTracker

logger = logging.getLogger(__name__)

SECONDS_TO_START = 15.0
"""Seconds wandb waits for its server at the start; its own default is 90."""
SECONDS_AT_END = 20.0
"""Seconds a run waits at its end for the trackers' pending entries."""

MOST_WAITING = 100_000
"""Maximum queue length; further entries are dropped."""


FRAMES_SHOWN = 8
"""Frames of a video shown in TensorBoard."""


class Tracker(Protocol):
    """Receives metrics. Its methods may block and may fail."""

    def metrics(self, step: int, values: dict[str, Any]) -> None:
        """Logs values of a step."""

    def video(self, step: int, path: Path, prompt: str) -> None:
        """Logs a validation video."""

    def finish(self) -> None:
        """Sends pending data."""


class WandbTracker:
    """Weights & Biases. A resumed run continues the same wandb run, whose id is kept in the run folder."""

    def __init__(self, job: TrainJob, settings: Wandb, folder: RunFolder):
        import wandb

        self._wandb, self._videos = wandb, settings.videos
        self._run = wandb.init(
            project=settings.project,
            entity=settings.entity,
            group=group_of(folder, settings.group),
            tags=settings.tags,
            mode=settings.mode,
            name=job.name,
            id=kept_name(folder.path / "wandb_id.txt", lambda: token_hex(8)),
            resume="allow",
            dir=folder.path,
            config=job.model_dump(mode="json"),
            # wandb would capture stdout and stderr, and wait 90 seconds for a server that is not there.
            settings=wandb.Settings(silent=True, console="off", init_timeout=SECONDS_TO_START, disable_git=True),
        )

    def metrics(self, step: int, values: dict[str, Any]) -> None:
        """Logs values of a step."""
        self._run.log(values, step=step)

    def video(self, step: int, path: Path, prompt: str) -> None:
        """Logs a validation video."""
        if self._videos:
            self._run.log(
                {f"videos/{path.stem}": self._wandb.Video(str(path), caption=prompt, format="mp4")}, step=step
            )

    def finish(self) -> None:
        """Sends pending data."""
        self._run.finish()


class TensorBoardTracker:
    """TensorBoard's event files in the run folder."""

    def __init__(self, job: TrainJob, settings: TensorBoard, folder: RunFolder, first_step: int):
        from torch.utils.tensorboard import SummaryWriter

        # Hides later points of an earlier attempt or an abandoned branch.
        purge = first_step + 1 if first_step else None
        self._writer = SummaryWriter(folder.path / "tensorboard", purge_step=purge)
        self._writer.add_text("config", f"```json\n{json.dumps(job.model_dump(mode='json'), indent=2)}\n```")
        self._videos = settings.videos

    def metrics(self, step: int, values: dict[str, Any]) -> None:
        """Logs values of a step."""
        for name, value in values.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(name, value, step)

    def video(self, step: int, path: Path, prompt: str) -> None:
        """Logs a validation video as frames: TensorBoard cannot play videos."""
        if self._videos:
            frames = spread_frames(path, FRAMES_SHOWN)
            self._writer.add_images(f"{path.stem}: {prompt}", frames, step, dataformats="NHWC")

    def finish(self) -> None:
        """Sends pending data."""
        self._writer.close()


def custom_trackers(settings: Settings) -> dict[str, Callable[..., Tracker]]:
    """Builders of the user's own trackers, by name: from the run's folder, its settings as JSON values, and the number
    of completed steps.

    Raises:
        UserError: one cannot be imported, or does not accept its arguments.
    """
    arguments = ("folder", "config", "first_step")
    return {name: imported(custom, f"tracker.custom.{name}", *arguments) for name, custom in settings.custom.items()}


class Trackers:
    """All trackers of a run, each with its own queue and thread; none without a job.

    Args:
        job: the settings.
        folder: the run.
        first_step: completed steps.
    """

    def __init__(self, job: TrainJob | None = None, folder: RunFolder | None = None, first_step: int = 0):
        self._threads: list[_TrackerThread] = []
        if job is None or folder is None:
            return  # this process does not write
        wanted = job.tracker
        for name, build in custom_trackers(wanted).items():
            arguments = (folder.path, job.model_dump(mode="json"), first_step)
            self._threads.append(_TrackerThread(name, partial(build, *arguments)))
        if wandb := wanted.wandb:
            self._threads.append(_TrackerThread("wandb", lambda: WandbTracker(job, wandb, folder)))
        if trackio := wanted.trackio:
            self._threads.append(_TrackerThread("trackio", lambda: TrackioTracker(job, trackio, folder)))
        if tensorboard := wanted.tensorboard:
            self._threads.append(
                _TrackerThread("tensorboard", lambda: TensorBoardTracker(job, tensorboard, folder, first_step))
            )

    def metrics(self, line: dict[str, Any]) -> None:
        """Logs a line of metrics, which includes the step."""
        values = {name: value for name, value in line.items() if name != "step"}
        for thread in self._threads:
            thread.submit(lambda tracker: tracker.metrics(line["step"], values))

    def videos(self, step: int, paths: list[Path], prompts: list[str]) -> None:
        """Logs validation videos."""
        for thread in self._threads:
            for path, prompt in zip(paths, prompts, strict=True):
                thread.submit(partial(_video, step, path, prompt))

    def finish(self) -> None:
        """Waits for the trackers, for a limited time."""
        for thread in self._threads:
            thread.finish()


def _video(step: int, path: Path, prompt: str, tracker: Tracker) -> None:
    tracker.video(step, path, prompt)


class _TrackerThread:
    def __init__(self, name: str, build: Callable[[], Tracker]):
        self._name, self._build = name, build
        self._queue: queue.Queue[Callable[[Tracker], None] | None] = queue.Queue(MOST_WAITING)
        # A daemon thread: a hanging tracker must not keep the process alive.
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def submit(self, entry: Callable[[Tracker], None] | None) -> None:
        if self._thread.is_alive():
            try:
                # Never waits: with a server that hangs, entries are dropped and the run goes on.
                self._queue.put_nowait(entry)
            except queue.Full:
                logger.debug("%s is behind; an entry is left out", self._name)

    def finish(self) -> None:
        self.submit(None)
        # Bounded, as a tracker may retry its server for hours.
        self._thread.join(SECONDS_AT_END)
        if self._thread.is_alive():
            console.warn(f"Note: {self._name} does not respond; pending data is only in the run folder")

    def _work(self) -> None:
        try:
            tracker = self._build()
            logger.info("%s is ready", self._name)
            while (entry := self._queue.get()) is not None:
                entry(tracker)
            tracker.finish()
        except Exception as error:  # a failing tracker must not affect the run
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            console.warn(f"Note: continuing without {self._name}: {reason}")
