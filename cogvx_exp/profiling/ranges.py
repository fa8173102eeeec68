"""The named ranges of a step, which only a profiler makes something of. Does not import torch."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

Range = Callable[[str], AbstractContextManager[None]]
"""Makes what is entered around a named part of a step."""


class Profiler(Protocol):
    """What the training loop tells a profiler."""

    def range(self, name: str) -> AbstractContextManager[None]:
        """Around a named part of a step."""

    def end_step(self) -> None:
        """A step and all that is done before the next one is over."""


def no_range(name: str) -> AbstractContextManager[None]:
    """Nothing around a part of a step."""
    return nullcontext()


class NoProfiler:
    """Takes the place of a profiler in runs without one."""

    range = staticmethod(no_range)

    def end_step(self) -> None:
        """Nothing."""
