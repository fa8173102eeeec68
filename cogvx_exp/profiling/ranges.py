"""The named ranges of a step; without a profiler, they do nothing. Does not import torch."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

Range = Callable[[str], AbstractContextManager[None]]
"""Returns the context to enter for a named part of a step."""


class Profiler(Protocol):
    """The profiler as the training loop sees it."""

    def range(self, name: str) -> AbstractContextManager[None]:
        """The context of a named part of a step."""

    def end_step(self) -> None:
        """Marks the end of a step and of everything done before the next one."""


def no_range(name: str) -> AbstractContextManager[None]:
    """A range that does nothing."""
    return nullcontext()


class NoProfiler:
    """Stands in for a profiler in runs without one."""

    range = staticmethod(no_range)

    def end_step(self) -> None:
        """Does nothing."""
