"""Saves checkpoints while training goes on."""

import logging
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cogvx_exp.config.schema import Checkpoint
from cogvx_exp.console.progress import console
from cogvx_exp.runs.checkpoint_folder import prune_checkpoints, write_checkpoint

logger = logging.getLogger(__name__)


class CheckpointSaver:
    """Writes one checkpoint at a time, in a thread; the training waits only if the one before is not done.

    A checkpoint that cannot be written (a full disk) is reported and leaves those before it alone.

    Args:
        folder: where the checkpoints of the run are.
        settings: which stay, and whether writing happens in the background.
    """

    def __init__(self, folder: Path, settings: Checkpoint):
        self._folder = folder
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        self._failure = ""
        self.seconds_waited = 0.0
        """How long the training has stood still for checkpoints."""
        self.seconds_writing = 0.0
        self.written = 0

    def save(self, path: Path, take: Callable[[], Callable[[Path], None]], about: dict[str, Any]) -> None:
        """Saves a state.

        Args:
            path: the checkpoint's folder.
            take: copies the state and returns what writes the copy into a folder.
            about: goes into the manifest.
        """
        self.wait_for_last()
        started = time.perf_counter()
        write = take()
        self._writing = self._thread.submit(self._write, path, write, about)
        if not self._settings.background:
            self.wait()
        self.seconds_waited += time.perf_counter() - started

    def wait_for_last(self) -> None:
        """Returns when the checkpoint before is written; the training stands still meanwhile."""
        started = time.perf_counter()
        self.wait()
        self.seconds_waited += time.perf_counter() - started

    def wait(self) -> None:
        """Returns when nothing is being written."""
        if self._writing:
            writing, self._writing = self._writing, None
            writing.result()

    def finish(self) -> str:
        """Waits for the last checkpoint. Returns what is wrong with it if it could not be written, else nothing."""
        self.wait()
        self._thread.shutdown()
        return self._failure

    def _write(self, path: Path, write: Callable[[Path], None], about: dict[str, Any]) -> None:
        started = time.perf_counter()
        try:
            write_checkpoint(path, write, about)
            logger.info("%s written in %.2f s", path, time.perf_counter() - started)
            prune_checkpoints(self._folder, self._settings.keep, keep_best=self._settings.keep_best)
            self._failure = ""
            self.written += 1
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
        return f"{self._folder / kept[-1]} is the last good one" if kept else "There is no other one"
