"""Problems of a dataset, collected and shown as one table."""

import csv
from dataclasses import astuple, dataclass
from pathlib import Path

from rich.table import Table

from cogvx_exp.console.terminal import PlainConsole
from cogvx_exp.core.files import atomic_write
from cogvx_exp.media.errors import ClipError as ClipError

SHOWN = 30
"""Maximum number of printed issues; the file has all of them."""


@dataclass(frozen=True, slots=True)
class DataIssue:
    """A problem with a row or file of a dataset."""

    row: int | None
    """Line or record of the manifest, counted from 1; None for the whole manifest."""
    file: str
    what: str
    fix: str


def issue_of(row: int | None, file: str, error: ClipError) -> DataIssue:
    """The issue for an error in a row."""
    return DataIssue(row, file, error.what, error.fix)


def print_issues(issues: list[DataIssue], console: PlainConsole) -> None:
    """Prints the issues as a table."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("row", justify="right")
    # Folded rather than cut: a path has to be copied whole.
    for column in ("file", "what is wrong", "how to fix it"):
        table.add_column(column, overflow="fold")
    for issue in issues[:SHOWN]:
        table.add_row("" if issue.row is None else str(issue.row), issue.file, issue.what, issue.fix)
    console.warn(table)
    if len(issues) > SHOWN:
        console.warn(f"... and {len(issues) - SHOWN} more")


def write_issues(issues: list[DataIssue], path: Path) -> None:
    """Writes the issues as CSV."""
    with atomic_write(path) as tmp, tmp.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "file", "what is wrong", "how to fix it"])
        writer.writerows(astuple(issue) for issue in issues)
