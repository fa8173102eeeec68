"""Progress bars on a terminal, occasional lines elsewhere."""

import time
from collections.abc import Collection, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

T = TypeVar("T")

console = Console(highlight=False)

SECONDS_BETWEEN_LINES = 10.0
"""How often a line is printed where there is no terminal."""


def progress(label: str, items: Collection[T]) -> Iterator[T]:
    """Yields the items with a bar that has their rate and the time left."""
    with Bar(label, len(items)) as bar:
        for done, item in enumerate(items, 1):
            yield item
            bar.show(done, "")


class Bar:
    """A progress bar with a text behind it."""

    def __init__(self, label: str, total: int, done: int = 0):
        self.label, self.total = label, total
        self._live = console.is_terminal
        self._last_line = 0.0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[text]}"),
            console=console,
            disable=not self._live,
        )
        self._task: TaskID = self._progress.add_task(label, total=total, completed=done, text="")

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def show(self, done: int, text: str) -> None:
        """Sets how many items are done and the text behind the bar."""
        self._progress.update(self._task, completed=done, text=text)
        now = time.monotonic()
        if not self._live and (done == self.total or now - self._last_line > SECONDS_BETWEEN_LINES):
            self._last_line = now
            console.print(f"{self.label} {done}/{self.total}  {text}".rstrip())
