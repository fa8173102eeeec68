"""Messages about long waits. Does not need torch."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from cogvx_exp.console.progress import console

FIRST_MESSAGE = 10.0
"""Seconds before the first message."""
NEXT_MESSAGE = 50.0
"""Seconds between later messages."""


class WaitReporter:
    """Watches waits, possibly many short ones, with a single thread: `with reporter.waiting():`.

    Args:
        what: text after "Waiting for ...".
    """

    def __init__(self, what: str):
        self._what = what
        self._since: float | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="waiting", daemon=True)
        self._thread.start()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Prints a message while the block takes long: after ten seconds, then every fifty."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = None

    def end(self) -> None:
        """Stops the thread."""
        self._end.set()

    def _watch(self) -> None:
        said: tuple[float | None, float] = (None, 0.0)  # start of the wait, time of its last message
        # One thread that polls: a timer for every batch would start a thread for every batch.
        while not self._end.wait(min(1.0, FIRST_MESSAGE / 4)):
            # Read once: the other thread may reset it at any moment.
            since, now = self._since, time.monotonic()
            due = FIRST_MESSAGE if since != said[0] else said[1] - (since or 0) + NEXT_MESSAGE
            if since is not None and now - since >= due:
                said = (since, now)
                text = f"Waiting for {self._what} ({now - since:.0f} s so far)"
                if console.quiet:  # any rank may be the only one that waits
                    print(text, file=sys.stderr, flush=True)
                else:
                    console.print(text, soft_wrap=True, markup=False)


@contextmanager
def report_long_wait(what: str) -> Iterator[None]:
    """Prints a message while the block takes long: after ten seconds, then every fifty.

    Args:
        what: text after "Waiting for ...".
    """
    reporter = WaitReporter(what)
    try:
        with reporter.waiting():
            yield
    finally:
        reporter.end()
