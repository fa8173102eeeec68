"""What the modes have in common: processes share the work, results are merged into the manifest at the end."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, TypeVar

from cogvx_exp.config.schema import Data
from cogvx_exp.console.progress import console
from cogvx_exp.core.errors import UserError
from cogvx_exp.data.dataset import short_paths
from cogvx_exp.data.issues import DataIssue, print_issues, write_issues

T = TypeVar("T")

BLOCK = 8
"""Consecutive clips that one process does: those of one video are near each other, and opening it takes time."""


class Stage(Protocol):
    """A mode."""

    def work(self, rank: int, world_size: int) -> None:
        """Does a process's share; results are kept in a journal.

        Raises:
            UserError: something failed; the other results are kept.
        """
        ...

    def merge(self) -> None:
        """Writes all results that there are into the manifest."""
        ...


def share(items: Mapping[int, T], rank: int, world_size: int, block: int = BLOCK) -> list[T]:
    """The items of one process.

    Args:
        items: by their places among all items, done or not: processes that start later share in the same way.
        rank: of the process.
        world_size: number of processes.
        block: consecutive items of one process.
    """
    return [item for place, item in items.items() if place // block % world_size == rank]


def raise_on_issues(issues: list[DataIssue], data: Data, report: Path, what: tuple[str, str]) -> None:
    """Prints the issues and writes them to a file.

    Args:
        issues: one for each thing that failed.
        data: decides whether they stop the command.
        report: the file.
        what: what failed, in the singular, and how.

    Raises:
        UserError: there are some, and data.on_error=raise.
    """
    if not issues:
        return
    issues = short_paths(issues, data)
    print_issues(issues, console)
    write_issues(issues, report)
    noun, failed = what
    number = f"1 {noun}" if len(issues) == 1 else f"{len(issues)} {noun}s"
    message = f"{number} {failed} (details: {report}); the others are done"
    if data.on_error == "raise":
        raise UserError(f"{message}. Run the command again to retry, or add data.on_error=skip")
    console.warn(message)
