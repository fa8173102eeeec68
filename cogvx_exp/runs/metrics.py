"""Metrics files: one JSON object a line. Does not need torch."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from cogvx_exp.console.progress import console
from cogvx_exp.core.disk import FULL
from cogvx_exp.core.files import write_text

LONGEST_LINE = 1 << 14
"""Bytes at the end of a metrics file that are searched for its last line."""


class Metrics:
    """Appends metrics to a run's metrics.jsonl.

    A resumed run drops the lines after its checkpoint, whose steps are repeated. On a full disk, lines are kept in
    memory until there is space.

    Args:
        path: the file.
        after_step: the last step whose line is kept.
        on_line: called with each line.
    """

    def __init__(self, path: Path, after_step: int, on_line: Callable[[dict[str, Any]], None] = lambda values: None):
        self._on_line = on_line
        # A line per step must stay unique, since the steps after the checkpoint are computed again.
        kept = [line for line in read_metrics(path) if line["step"] <= after_step]
        self.last: dict[str, Any] = kept[-1] if kept else {}
        """The last line that was kept."""
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._path, self._waiting, self._reported = path, b"", False
        self._file = path.open("ab", buffering=0)  # unbuffered: lines survive a kill, and reports see them

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *exception: object) -> None:
        self._append()
        self._file.close()

    def write(self, **values: Any) -> None:
        """Appends one line."""
        # Bytes, because an unbuffered write may write only a part of them.
        self._waiting += json.dumps(values).encode() + b"\n"
        self._append()
        # Trackers get every line, whatever the disk does.
        self._on_line(values)

    def _append(self) -> None:
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
        except OSError as error:
            if error.errno not in FULL:
                raise
            if not self._reported:
                console.warn(f"Note: {self._path}: {error.strerror}; its lines are kept in memory")
            self._reported = True


class NoMetrics:
    """Replaces `Metrics` in processes that do not write."""

    last: ClassVar[dict[str, Any]] = {}

    def __enter__(self) -> "NoMetrics":
        return self

    def __exit__(self, *exception: object) -> None: ...

    def write(self, **values: Any) -> None:
        """Drops the values."""


def last_metrics(path: Path) -> dict[str, Any]:
    """The last complete line of a metrics file, without reading the whole file; empty if there is none."""
    if not path.exists():
        return {}
    with path.open("rb") as file:
        # From the end: a sweep's table reads this file of every job each second.
        file.seek(max(path.stat().st_size - LONGEST_LINE, 0))
        # The last part is empty, or a line that is being written.
        lines = file.read().split(b"\n")[:-1]
    for line in reversed(lines):
        with suppress(json.JSONDecodeError):
            return dict(json.loads(line))
    return {}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file, without a truncated last line."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    metrics = []
    for line in lines:
        try:
            metrics.append(json.loads(line))
        # Only the last line of a killed process can be incomplete.
        except json.JSONDecodeError:
            break
    return metrics
