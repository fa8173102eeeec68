"""Saves checkpoints in the background."""

import logging
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from cogvx_exp.config.schema import Checkpoint
from cogvx_exp.console.progress import console
from cogvx_exp.runs.best import Best
from cogvx_exp.runs.checkpoint_folder import prune_checkpoints, write_checkpoint

logger = logging.getLogger(__name__)


class CheckpointSaver:
    """Writes one checkpoint at a time in a thread; training only waits if the previous one is not finished.

    A checkpoint that cannot be written (full disk) is reported, and earlier ones are kept.

    Args:
        folder: the run's checkpoint folder.
        settings: how many are kept, and whether to write in the background.
        best: what they are compared by; None: the best is not kept.
    """

    def __init__(self, folder: Path, settings: Checkpoint, best: Best | None = None):
        self._folder = folder
        self._settings = settings
        self._best = best
        # One thread, so that checkpoints are complete in the order of their steps.
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        self._failure = ""
        self.seconds_waited = 0.0
        """Time that training has waited for checkpoints."""
        self.seconds_writing = 0.0
        self.written = 0

    def save(self, path: Path, take: Callable[[], Callable[[Path], None]], about: dict[str, Any]) -> None:
        """Saves a state.

        Args:
            path: the checkpoint's folder.
            take: copies the state and returns a function that writes the copy into a folder.
            about: contents of the manifest.
        """
        self.wait_for_last()
        started = time.perf_counter()
        write = take()
        self._writing = self._thread.submit(self._write, path, write, about)
        if not self._settings.background:
            self.wait()
        self.seconds_waited += time.perf_counter() - started

    def wait_for_last(self) -> None:
        """Waits until the previous checkpoint is written, counting the time."""
        started = time.perf_counter()
        self.wait()
        self.seconds_waited += time.perf_counter() - started

    def choose_best(self) -> None:
        """Compares the checkpoints again, after scores have been measured."""
        self.wait_for_last()  # the thread prunes, too
        with suppress(OSError):
            prune_checkpoints(self._folder, self._settings.keep, self._best)

    def wait(self) -> None:
        """Waits until nothing is being written."""
        if self._writing:
            # Forgotten before waiting: an error is raised once, not again at the next checkpoint.
            writing, self._writing = self._writing, None
            writing.result()

    def finish(self) -> str:
        """Waits for the last checkpoint. Returns why it could not be written, empty if it was."""
        self.wait()
        self._thread.shutdown()
        return self._failure

    def _write(self, path: Path, write: Callable[[Path], None], about: dict[str, Any]) -> None:
        started = time.perf_counter()
        try:
            write_checkpoint(path, write, about)
            logger.info("%s written in %.2f s", path, time.perf_counter() - started)
            prune_checkpoints(self._folder, self._settings.keep, self._best)
            self._failure = ""
            self.written += 1
        # Training goes on: hours of work must not end because of a full disk that may have room again.
        except OSError as error:
            free = shutil.disk_usage(self._folder if self._folder.exists() else ".").free / 2**30
            reason = f"{error.strerror or error} ({free:.1f} GiB free)"
            self._failure = (
                f"the checkpoint of step {about['step']} could not be written: {reason}; make room. {self._last()}"
            )
            console.warn(f"Note: {self._failure}", style="yellow")
        self.seconds_writing += time.perf_counter() - started

    def _last(self) -> str:
        kept = sorted(path.name for path in self._folder.glob("step-*"))
        return f"{self._folder / kept[-1]} is the last valid one" if kept else "There is no earlier one"
