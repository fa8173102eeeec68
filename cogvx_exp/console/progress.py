"""Progress bars on a terminal, occasional lines elsewhere."""

import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from cogvx_exp.console.terminal import PlainConsole

T = TypeVar("T")

console = PlainConsole()

SECONDS_BETWEEN_LINES = 10.0
"""Interval of lines where there is no terminal."""


def progress(label: str, items: Iterable[T], total: int | None = None) -> Iterator[T]:
    """Yields the items with a progress bar of their number, rate and remaining time.

    `total` is needed for items without a length.
    """
    if total is None:
        assert isinstance(items, Sized)
        total = len(items)
    started = time.monotonic()
    with Bar(label, total) as bar:
        for done, item in enumerate(items, 1):
            yield item
            bar.show(done, f"{done / max(time.monotonic() - started, 1e-9):.1f}/s")


class Bar:
    """A progress bar followed by a text. Bars may be nested; an inner one disappears when it is done."""

    _display: Progress | None = None
    """The display shared by all open bars: rich allows only one live display at a time."""

    def __init__(self, label: str, total: int, done: int = 0):
        self.label, self.total, self.done = label, total, done
        self._live = console.shows_bars
        self._last_line = 0.0

    def __enter__(self) -> "Bar":
        self._owns_display = Bar._display is None
        if Bar._display is None:
            Bar._display = _new_display(self._live)
            Bar._display.start()
        self._task = Bar._display.add_task(self.label, total=self.total, completed=self.done, text="")
        return self

    def __exit__(self, *exception: object) -> None:
        assert Bar._display
        if self._owns_display:
            Bar._display.stop()
            Bar._display = None
        else:
            Bar._display.remove_task(self._task)

    def show(self, done: int, text: str) -> None:
        """Sets the number of completed items and the text after the bar."""
        assert Bar._display
        Bar._display.update(self._task, completed=done, text=text)
        now = time.monotonic()
        # Log files keep every refresh of a bar, so lines are few.
        if not self._live and (done == self.total or now - self._last_line > SECONDS_BETWEEN_LINES):
            self._last_line = now
            console.print(f"{self.label} {done}/{self.total}  {text}".rstrip())


class _Time(TimeRemainingColumn):
    """The remaining time, or the elapsed time as long as it is unknown."""

    def render(self, task: Task) -> Text:
        if task.time_remaining is None:
            return TimeElapsedColumn().render(task)
        return super().render(task)


def _new_display(live: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        _Time(compact=True),
        TextColumn("{task.fields[text]}", markup=False),
        console=console,
        disable=not live,
    )
